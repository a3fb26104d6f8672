//! The queue of deletions that the agent did not confirm, usually because it was
//! not running: DEL writes one file per attachment (see
//! [`beeline_api::deleted_directory`]); the agent reads and removes the files.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use beeline_api::{Attachment, deleted_directory};

use crate::error::{CniError, Code};

/// Queues the deletion of an attachment.
pub fn enqueue(socket: &Path, attachment: &Attachment) -> Result<(), CniError> {
    write(socket, attachment).map_err(|error| {
        CniError::new(
            Code::InputOutput,
            format!(
                "the agent did not release interface {} of container {}, and the deletion cannot be queued for it: {error}",
                attachment.interface, attachment.container_id
            ),
        )
        .with_details(format!("check that the directory {} is writable by root; the agent releases the addresses of queued deletions", deleted_directory(socket).display()))
    })
}

/// Removes an attachment from the queue. It is no error if it is not queued.
/// ADD must call this before it creates the attachment again.
pub fn remove(socket: &Path, attachment: &Attachment) -> Result<(), CniError> {
    let path = deleted_directory(socket).join(attachment.file_name());
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(CniError::new(
            Code::InputOutput,
            format!("cannot remove the queued deletion {}: {error}", path.display()),
        )
        .with_details("check that its directory is writable by root")),
        _ => Ok(()),
    }
}

fn write(socket: &Path, attachment: &Attachment) -> io::Result<()> {
    let directory = deleted_directory(socket);
    fs::create_dir_all(&directory)?;
    let path = directory.join(attachment.file_name());
    let temporary = path.with_extension("new");
    let mut file = fs::File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(attachment)?)?;
    file.sync_all()?;
    fs::rename(&temporary, &path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_a_deletion_is_queued_once_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("agent.sock");
        let attachment = Attachment { container_id: "c".into(), interface: "eth0".into() };
        remove(&socket, &attachment).unwrap();
        enqueue(&socket, &attachment).unwrap();
        enqueue(&socket, &attachment).unwrap();
        let files: Vec<_> = fs::read_dir(directory.path().join("deleted")).unwrap().flatten().collect();
        assert_eq!(files.len(), 1);
        let read: Attachment = serde_json::from_slice(&fs::read(files[0].path()).unwrap()).unwrap();
        assert_eq!(read, attachment);
        remove(&socket, &attachment).unwrap();
        assert_eq!(fs::read_dir(directory.path().join("deleted")).unwrap().count(), 0);
    }
}
