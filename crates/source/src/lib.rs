//! Watches the Kubernetes API and converts at the door.
