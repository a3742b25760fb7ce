//! Config of the receiver `rdma`.

use std::path::PathBuf;
use std::time::Duration;

use flowtap_pipeline::schema::DurationText;
use flowtap_pipeline::{ComponentConfig, Contract, Signal, Sockets, Violation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Interval at which devices are read. At least 100 ms.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub interval: Duration,
    /// Where the kernel's sysfs is mounted; in a container that has the host's elsewhere, that place.
    pub sysfs_root: PathBuf,
    /// Names of the devices to read, such as `mlx5_0`; `*` stands for any text.
    pub devices: Vec<String>,
    /// Whether queue pairs are counted, by type, state and process.
    pub queue_pairs: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(5),
            sysfs_root: "/sys".into(),
            devices: vec!["*".to_owned()],
            queue_pairs: true,
        }
    }
}

impl ComponentConfig for Config {
    fn contract(&self) -> Contract {
        Contract::default()
            .gives([Signal::Readings])
            .covers(Sockets::RdmaDevices)
            .reads([&self.sysfs_root])
            .every(self.interval)
    }

    fn validate(&self) -> Vec<Violation> {
        let mut faults = Vec::new();
        if self.interval < Duration::from_millis(100) {
            faults.push(Violation::new("interval", "must be at least 100ms"));
        }
        if self.devices.is_empty() {
            let message = "is empty, so no device would be read; hint: `[\"*\"]` reads all";
            faults.push(Violation::new("devices", message));
        }
        for (index, device) in self.devices.iter().enumerate() {
            if device.is_empty() || device.contains('/') {
                let message =
                    format!("`{device}` is not the name of a device; `ls /sys/class/infiniband` lists them");
                faults.push(Violation::new(&format!("devices.{index}"), message));
            }
        }
        faults
    }
}
