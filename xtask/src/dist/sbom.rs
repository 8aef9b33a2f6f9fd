//! The bill of materials of what is compiled in, in the format <https://cyclonedx.org/docs/1.5/json/>. Written from
//! cargo's own metadata.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::NAME;

/// Writes the bill of materials into `out`.
pub(super) fn write(out: &Path) -> Result<()> {
    let metadata = super::metadata()?;
    let packages = metadata["packages"].as_array().context("cargo names no packages")?;
    let nodes = metadata["resolve"]["nodes"]
        .as_array()
        .context("cargo resolves nothing")?;
    let by_id = |id: &Value| packages.iter().find(|package| package["id"] == *id);
    let root = packages
        .iter()
        .find(|package| package["name"] == NAME)
        .context("it is not a package")?;

    let mut reached: BTreeSet<&str> = BTreeSet::new();
    let mut components = Vec::new();
    let mut dependencies = Vec::new();
    let mut ahead = vec![&root["id"]];
    while let Some(id) = ahead.pop() {
        if !reached.insert(id.as_str().context("an id")?) {
            continue;
        }
        let package = by_id(id).context("a package without a name")?;
        if package["name"] != NAME {
            components.push(component(package, "library"));
        }
        let node = nodes
            .iter()
            .find(|node| node["id"] == *id)
            .context("a package that is not resolved")?;
        let mut needs = Vec::new();
        for dependency in node["deps"].as_array().into_iter().flatten() {
            // Dependencies of tests are not compiled in. Those of build scripts are named, because build scripts write
            // parts of the program.
            let kinds = dependency["dep_kinds"].as_array();
            if kinds.is_some_and(|kinds| kinds.iter().all(|kind| kind["kind"] == "dev")) {
                continue;
            }
            ahead.push(&dependency["pkg"]);
            needs.extend(by_id(&dependency["pkg"]).map(url));
        }
        needs.sort();
        dependencies.push(json!({ "ref": url(package), "dependsOn": needs }));
    }
    components.sort_by_key(|component| component["bom-ref"].to_string());
    dependencies.sort_by_key(|dependency| dependency["ref"].to_string());
    let bom = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": component(root, "application") },
        "components": components,
        "dependencies": dependencies,
    });
    let name = format!("{NAME}-{}.cdx.json", root["version"].as_str().context("a version")?);
    fs::write(out.join(name), serde_json::to_string_pretty(&bom)? + "\n")?;
    Ok(())
}

fn component(package: &Value, kind: &str) -> Value {
    let mut component = json!({
        "type": kind,
        "bom-ref": url(package),
        "name": package["name"],
        "version": package["version"],
        "purl": url(package),
    });
    if let Some(licence) = package["license"].as_str() {
        // Old manifests have a slash for "or".
        component["licenses"] = json!([{ "expression": licence.replace('/', " OR ") }]);
    }
    component
}

/// <https://github.com/package-url/purl-spec>
fn url(package: &Value) -> String {
    let text = |key: &str| package[key].as_str().unwrap_or_default().to_owned();
    format!("pkg:cargo/{}@{}", text("name"), text("version"))
}
