//! What two envelopes say differently, value by value.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use store_format::Envelope;

/// A value that two envelopes do not share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ValueDiff {
    /// Where it stands, as `boot.cmdline` or `table.partitions.1.name`:
    /// partitions go by their numbers.
    pub key: String,
    /// In the image that is there; null where it has none.
    pub from: Value,
    /// In the wanted image; null where it has none.
    pub to: Value,
}

/// All values but those of the regions, which are compared by their content,
/// and of the format.
pub(super) fn differences(old: &Envelope, new: &Envelope) -> Vec<ValueDiff> {
    let (mut old, mut new) = (values(old), values(new));
    let mut keys: Vec<String> = old.keys().chain(new.keys()).cloned().collect();
    keys.sort_unstable();
    keys.dedup();
    let mut take = |key: String| {
        let (from, to) = (old.remove(&key), new.remove(&key));
        (from != to).then(|| ValueDiff {
            key,
            from: from.unwrap_or_default(),
            to: to.unwrap_or_default(),
        })
    };
    keys.into_iter().filter_map(&mut take).collect()
}

fn values(envelope: &Envelope) -> BTreeMap<String, Value> {
    let mut values = BTreeMap::new();
    // An envelope has a JSON form: it is what it is stored as.
    let mut document = serde_json::to_value(envelope).unwrap_or_default();
    if let Some(fields) = document.as_object_mut() {
        fields.remove("format");
        fields.remove("regions");
    }
    collect(String::new(), document, &mut values);
    values
}

fn collect(key: String, value: Value, values: &mut BTreeMap<String, Value>) {
    let below = |name: &str| if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") };
    match value {
        Value::Null => {}
        Value::Object(fields) => {
            fields.into_iter().for_each(|(name, value)| collect(below(&name), value, values));
        }
        Value::Array(items) => {
            for (index, mut item) in items.into_iter().enumerate() {
                let number = item.as_object_mut().and_then(|fields| fields.remove("number"));
                let name = number.map_or_else(|| index.to_string(), |number| number.to_string());
                collect(below(&name), item, values);
            }
        }
        value => {
            values.insert(key, value);
        }
    }
}
