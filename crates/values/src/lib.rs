//! One values schema for the lab, the agent's configuration file and the chart.
