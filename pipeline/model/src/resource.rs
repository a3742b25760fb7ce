//! The resource: the attributes that name this flowtap and the node it runs on, the same in every exporter and in the daemon's own
//! metrics (OpenTelemetry specification, "Resource SDK").

use std::collections::BTreeMap;

/// Version of the semantic conventions that the attributes follow.
pub const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.37.0";

/// Name of the attribute that distinguishes the instances of a service.
pub const SERVICE_INSTANCE_ID: &str = "service.instance.id";

/// Name of the attribute that identifies the Kubernetes cluster.
pub const K8S_CLUSTER_UID: &str = "k8s.cluster.uid";

/// Name of the attribute with the service's name.
pub const SERVICE_NAME: &str = "service.name";

/// Attributes of this flowtap and its node. They do not change while it runs.
///
/// ```
/// use flowtap_model::Resource;
///
/// let attributes = [("service.instance.id".to_owned(), "node-17".to_owned())];
/// let resource = Resource::new(attributes, "node-17");
/// assert_eq!(resource.instance(), "node-17");
/// assert_eq!(resource.get("host.name"), None);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resource {
    attributes: BTreeMap<String, String>,
    node: String,
}

impl Resource {
    /// Creates a resource with `attributes`. `node` is a short name that distinguishes nodes, for
    /// readers.
    pub fn new(attributes: impl IntoIterator<Item = (String, String)>, node: impl Into<String>) -> Self {
        Self {
            attributes: attributes.into_iter().collect(),
            node: node.into(),
        }
    }

    /// The same with one attribute more, unless there is one of that name.
    #[must_use]
    pub fn or_with(mut self, name: &str, value: String) -> Self {
        self.attributes.entry(name.to_owned()).or_insert(value);
        self
    }

    /// The attribute `name`, if there is one.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).map(String::as_str)
    }

    /// Every attribute, sorted by name.
    pub fn attributes(&self) -> impl Iterator<Item = (&str, &str)> {
        self.attributes.iter().map(|(name, value)| (&**name, &**value))
    }

    /// The node as people name it; unique as far as they name nodes uniquely.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// `service.instance.id`, or nothing where the config has removed it.
    pub fn instance(&self) -> &str {
        self.get(SERVICE_INSTANCE_ID).unwrap_or_default()
    }
}
