//! The objects that network policies depend on, listed once: for recordings, not for the daemon, which has no use for labels.

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use kube::Api;
use kube::api::ListParams;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Cluster, bounded};

/// The objects of a cluster.
#[derive(Debug, Default)]
pub struct Listed {
    /// Each with its kind.
    pub objects: Vec<Value>,
    /// Whether every pod is among them: one that is not has gone.
    pub has_all_pods: bool,
}

/// Lists pods, namespaces, services and nodes. A resource that can't be listed is logged, with the rule that allows it, and left
/// out.
pub async fn list_objects(cluster: &Cluster) -> Listed {
    let mut objects = Vec::new();
    let client = || bounded::retrying(&cluster.client);
    let has_all_pods = list(Api::<Pod>::all(client()), "pods", &mut objects).await;
    list(Api::<Namespace>::all(client()), "namespaces", &mut objects).await;
    list(Api::<Service>::all(client()), "services", &mut objects).await;
    list(Api::<Node>::all(client()), "nodes", &mut objects).await;
    Listed {
        objects,
        has_all_pods,
    }
}

/// Whether the list is complete.
async fn list<K>(api: Api<K>, resource: &str, objects: &mut Vec<Value>) -> bool
where
    K: Clone + DeserializeOwned + std::fmt::Debug + Serialize,
{
    let mut page = ListParams::default().limit(bounded::PAGE);
    loop {
        let answer = match api.list(&page).await {
            Ok(answer) => answer,
            Err(error) => {
                let hint = match &error {
                    kube::Error::Api(status) if status.code == 403 => format!(
                        "; hint: add a rule with apiGroups: [\"\"], resources: [\"{resource}\"], verbs: [\"list\"]"
                    ),
                    _ => "; hint: check that the API server can be reached, and its log".to_owned(),
                };
                tracing::warn!(resource, %error, "the Kubernetes API can't list {resource}: they are left out{hint}");
                return false;
            }
        };
        // An object of the API is a mapping with text keys, which always has a form in JSON.
        objects.extend(
            answer
                .items
                .iter()
                .filter_map(|object| serde_json::to_value(object).ok()),
        );
        match answer.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return true,
        }
    }
}
