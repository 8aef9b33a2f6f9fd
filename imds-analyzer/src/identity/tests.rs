use std::{
    fs,
    os::unix::fs::symlink,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use tempfile::TempDir;

use super::*;

const ID: &str = "i-0123456789abcdef0";
const NITRO: [(&str, &str); 3] = [
    ("sys/class/dmi/id/sys_vendor", "Amazon EC2\n"),
    ("sys/class/dmi/id/board_asset_tag", "i-0123456789abcdef0\n"),
    ("sys/class/dmi/id/product_name", "c6a.2xlarge\n"),
];
const XEN: [(&str, &str); 1] = [("sys/hypervisor/uuid", "ec2e1916-9099-7caf-fd21-012345abcdef\n")];

fn note(id: &str) -> String {
    format!(
        r#"{{"v1": {{"cloud_name": "aws", "region": "eu-west-1", "instance_id": "{id}", "more": [1]}},
            "ds": {{"meta_data": {{}}, "dynamic": {{"instance-identity": {{"document": {{
            "accountId": "123456789012", "availabilityZone": "eu-west-1a", "imageId": "ami-1", "instanceId": "{id}",
            "instanceType": "c6a.2xlarge", "region": "eu-west-1"}}}}}}}}}}"#
    )
}

struct Root(TempDir);

impl Root {
    fn new(files: &[(&str, &str)]) -> Self {
        let root = Self(TempDir::new().expect("a directory"));
        files.iter().for_each(|(path, text)| root.write(path, text));
        root
    }

    fn path(&self, path: &str) -> PathBuf {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        path
    }

    fn write(&self, path: &str, text: &str) {
        fs::write(self.path(path), text).expect("written");
    }

    /// Reads the facts for a boot that began `ago`.
    fn read(&self, ago: Duration) -> Facts {
        read(self.0.path(), SystemTime::now() - ago)
    }
}

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn hardware_and_the_notes_of_this_instance() {
    let root = Root::new(&NITRO);
    root.write(NOTE, &note(ID));
    let text = |text: &str| Some(text.to_owned());
    let expected = Facts {
        name: None,
        provider: text("aws"),
        account_id: text("123456789012"),
        region: text("eu-west-1"),
        availability_zone: text("eu-west-1a"),
        instance_id: text(ID),
        machine_type: text("c6a.2xlarge"),
        image_id: text("ami-1"),
    };
    assert_eq!(root.read(HOUR), expected);
    let given = Facts {
        region: text("moon-1"),
        ..Facts::default()
    };
    assert_eq!(given.or(root.read(HOUR)).region, text("moon-1"));
}

#[test]
fn notes_of_another_instance_do_not_count() {
    let root = Root::new(&NITRO);
    root.write(NOTE, &note("i-00000000000000001"));
    root.write(LAST_INSTANCE, "i-00000000000000001\n");
    let cloud = root.read(HOUR);
    assert_eq!(cloud.instance_id.as_deref(), Some(ID));
    assert_eq!((cloud.account_id, cloud.image_id), (None, None));
}

#[test]
fn where_hardware_names_none_notes_of_another_boot_do_not_count() {
    let root = Root::new(&XEN);
    root.write(NOTE, &note(ID));
    root.write(LAST_INSTANCE, "i-00000001\n");
    assert_eq!(root.read(HOUR).instance_id.as_deref(), Some(ID));
    // Files written before this boot.
    let booted = SystemTime::now() + HOUR;
    let cloud = read(root.0.path(), booted);
    assert_eq!((cloud.provider.as_deref(), cloud.instance_id), (Some("aws"), None));
    fs::remove_file(root.path(NOTE)).expect("removed");
    assert_eq!(root.read(HOUR).instance_id.as_deref(), Some("i-00000001"));
}

#[test]
fn other_hardware_says_nothing() {
    let root = Root::new(&[
        ("sys/class/dmi/id/sys_vendor", "QEMU\n"),
        ("sys/class/dmi/id/board_asset_tag", "i-0123456789abcdef0\n"),
        ("sys/class/dmi/id/product_name", "Standard PC (i440FX + PIIX, 1996)\n"),
    ]);
    assert!(root.read(HOUR).is_empty());
    assert!(Root::new(&[]).read(HOUR).is_empty());
}

#[test]
fn hostile_files_are_left_alone() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let long = format!("{{\"v1\": {{\"region\": \"{}\"}}}}", "x".repeat(2 << 20));
    for text in [
        "",
        "{",
        "[]",
        "{\"v1\": 1}",
        "{\"v1\": {\"region\": \"a\\u001b[2J\"}}",
        &deep,
        &long,
    ] {
        let root = Root::new(&XEN);
        root.write(NOTE, text);
        let cloud = root.read(HOUR);
        assert_eq!(cloud.provider.as_deref(), Some("aws"));
        assert_eq!(cloud.region, None, "{:.40}", text);
    }
    let root = Root::new(&XEN);
    symlink("/proc/kcore", root.path(NOTE)).expect("a link");
    rustix::fs::mkfifoat(rustix::fs::CWD, root.path(LAST_INSTANCE), rustix::fs::Mode::RUSR).expect("a FIFO");
    assert_eq!(root.read(HOUR).instance_id, None);
}
