//! Encodes lists as JSON without copying the stored objects.

use beeline_apiserver_admission::Page;
use beeline_apiserver_schema::Kind;
use serde_json::{Value, json};

pub(super) fn metadata(page: &Page) -> Value {
    let mut metadata = json!({"resourceVersion": page.revision.to_string()});
    if !page.continue_token.is_empty() {
        metadata["continue"] = json!(page.continue_token);
    }
    if let Some(remaining_item_count) = page.remaining_item_count {
        metadata["remainingItemCount"] = json!(remaining_item_count);
    }
    metadata
}

pub(super) fn to_json(kind: &Kind, page: &Page) -> Vec<u8> {
    let (list_kind, version) = (json!(kind.list_kind()), json!(kind.api_version()));
    let head = format!(
        "{{\"kind\":{list_kind},\"apiVersion\":{version},\"metadata\":{},\"items\":[",
        metadata(page)
    );
    let mut text = head.into_bytes();
    for (index, item) in page.items.iter().enumerate() {
        if index > 0 {
            text.push(b',');
        }
        // Writing JSON into memory cannot fail.
        let _ = serde_json::to_writer(&mut text, item.as_ref());
    }
    text.extend_from_slice(b"]}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use beeline_apiserver_schema::Kinds;
    use std::sync::Arc;

    #[test]
    fn unit_pages_are_lists() {
        let items = vec![Arc::new(json!({"a": 1})), Arc::new(json!({"b": 2}))];
        let page =
            Page { items, revision: 7, continue_token: "next".to_owned(), remaining_item_count: Some(3) };
        let kinds = Kinds::built_in();
        let list: Value = serde_json::from_slice(&to_json(kinds.by_name("pods").unwrap(), &page)).unwrap();
        let metadata = json!({"resourceVersion": "7", "continue": "next", "remainingItemCount": 3});
        let expected = json!({"kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": [{"a": 1}, {"b": 2}]});
        assert_eq!(list, expected);
    }
}
