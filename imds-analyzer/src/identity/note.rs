//! cloud-init's notes about an instance: `instance-data.json`
//! (<https://docs.cloud-init.io/en/latest/explanation/instancedata.html>).

use serde::Deserialize;

use super::{Facts, shown};

/// The parts that describe an instance; all may be absent.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Note {
    v1: V1,
    ds: DataSource,
}

/// The part that has the same form for all clouds.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct V1 {
    cloud_name: Option<String>,
    region: Option<String>,
    availability_zone: Option<String>,
    instance_id: Option<String>,
}

/// The part that the cloud gave.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct DataSource {
    dynamic: Dynamic,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Dynamic {
    #[serde(rename = "instance-identity")]
    instance_identity: InstanceIdentity,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct InstanceIdentity {
    document: Document,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Document {
    account_id: Option<String>,
    region: Option<String>,
    availability_zone: Option<String>,
    instance_id: Option<String>,
    instance_type: Option<String>,
    image_id: Option<String>,
}

impl Note {
    /// `None` if `text` is not such a note.
    pub(super) fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text)
            .inspect_err(|error| tracing::debug!("cloud-init's notes: {error}"))
            .ok()
    }

    pub(super) fn cloud(self) -> Facts {
        let value = |text: Option<String>| text.as_deref().and_then(shown);
        let Document {
            account_id,
            region,
            availability_zone,
            instance_id,
            instance_type,
            image_id,
        } = self.ds.dynamic.instance_identity.document;
        Facts {
            account_id: value(account_id),
            region: value(region),
            availability_zone: value(availability_zone),
            instance_id: value(instance_id),
            machine_type: value(instance_type),
            image_id: value(image_id),
            ..Facts::default()
        }
        .or(Facts {
            provider: value(self.v1.cloud_name),
            region: value(self.v1.region),
            availability_zone: value(self.v1.availability_zone),
            instance_id: value(self.v1.instance_id),
            ..Facts::default()
        })
    }
}
