//! The JSON schema of `stayput.toml`, for editors.

/// The schema (JSON Schema 2020-12), made of the same types that read the file.
pub fn schema() -> serde_json::Value {
    let mut schema = schemars::schema_for!(crate::file::File).to_value();
    without_null(&mut schema);
    schema
}

/// TOML has no null: a key that is optional is left out.
fn without_null(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(object) => {
            for key in ["anyOf", "type", "enum"] {
                let Some(serde_json::Value::Array(choices)) = object.get_mut(key) else { continue };
                choices.retain(|choice| !choice.is_null() && choice != "null" && *choice != serde_json::json!({ "type": "null" }));
                if let ("type", [only]) = (key, &choices[..]) {
                    let only = only.clone();
                    object.insert(key.to_owned(), only);
                }
            }
            // One choice is no choice.
            if let Some(serde_json::Value::Array(choices)) = object.get("anyOf")
                && let [serde_json::Value::Object(only)] = &choices[..]
            {
                let only = only.clone();
                object.remove("anyOf");
                object.extend(only.into_iter().filter(|(key, _)| key != "description"));
            }
            object.values_mut().for_each(without_null);
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(without_null),
        _ => {}
    }
}
