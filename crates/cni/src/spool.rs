//! What DEL leaves for an agent that is away: one file per attachment (see
//! [`beeline_api::deleted_directory`]).

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use beeline_api::{Attachment, deleted_directory};

use crate::error::{CniError, Code};

/// Leaves word that the attachment is gone.
pub fn leave(socket: &Path, attachment: &Attachment) -> Result<(), CniError> {
    write(socket, attachment).map_err(|error| {
        CniError::new(
            Code::InputOutput,
            format!("the agent is away and the file that tells it later cannot be written: {error}"),
        )
        .with_details(format!("the directory {} must be writable", deleted_directory(socket).display()))
    })
}

/// Forgets it: the attachment is about to be made anew.
pub fn forget(socket: &Path, attachment: &Attachment) -> Result<(), CniError> {
    let path = deleted_directory(socket).join(attachment.file_name());
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(CniError::new(Code::InputOutput, format!("{} cannot be removed: {error}", path.display())))
        }
        _ => Ok(()),
    }
}

fn write(socket: &Path, attachment: &Attachment) -> io::Result<()> {
    let directory = deleted_directory(socket);
    fs::create_dir_all(&directory)?;
    let path = directory.join(attachment.file_name());
    let draft = path.with_extension("new");
    let mut file = fs::File::create(&draft)?;
    file.write_all(&serde_json::to_vec(attachment)?)?;
    file.sync_all()?;
    fs::rename(&draft, &path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_word_is_left_once_and_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("agent.sock");
        let attachment = Attachment { container_id: "c".into(), interface: "eth0".into() };
        forget(&socket, &attachment).unwrap();
        leave(&socket, &attachment).unwrap();
        leave(&socket, &attachment).unwrap();
        let files: Vec<_> = fs::read_dir(directory.path().join("deleted")).unwrap().flatten().collect();
        assert_eq!(files.len(), 1);
        let read: Attachment = serde_json::from_slice(&fs::read(files[0].path()).unwrap()).unwrap();
        assert_eq!(read, attachment);
        forget(&socket, &attachment).unwrap();
        assert_eq!(fs::read_dir(directory.path().join("deleted")).unwrap().count(), 0);
    }
}
