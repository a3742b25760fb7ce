//! The processor `policy`: what kind of peer is the remote address?
//!
//! In: records. Out: the same with `class`, and with `policy_rule` if the config asks for it. The rules, in order:
//!
//! 1. An address in `abnormal_black_list` is `abnormalFlowBlackList`.
//! 2. One in `abnormal_white_list` is `abnormalFlowWhiteList`.
//! 3. Port 53 on the server's side is `dns`, whatever the address.
//! 4. The most specific prefix over all other lists wins: a name server inside the service range is `dns`. Equal
//!    prefixes go by this order: classes of the config's own, `k8s_pod`, `k8s_svc`, `dns`, `localhost`, `docker`,
//!    `internal_hosts`.
//! 5. The unspecified address is `unknown`; it has no peer.
//! 6. Else `externalHosts`.
//!
//! The tables are made anew, as a whole, when what they rest on has changed: this machine's addresses, the cluster's
//! ranges, a file that a list names.
//!
//! The class `error` of the Go exporter stands for an address that it could not parse; here addresses are never text, so it
//! does not occur.

mod config;
mod factory;
mod lists;
mod source;
mod table;

use std::sync::Arc;

use flowtap_pipeline::{
    BuildContext, ClusterRanges, ClusterState, FlowBatch, NodeInfo, Processor, Subscription,
};

pub use self::config::{Config, CustomClass, Entry};
pub use self::factory::FACTORY;
pub use self::lists::{ListError, Lists};
pub use self::source::Source;
pub use self::table::{Rule, Tables};

/// The processor.
#[derive(Debug)]
pub struct Policy {
    lists: Subscription<Lists>,
    node: Subscription<NodeInfo>,
    cluster: Subscription<ClusterState>,
    /// Ranges that the tables were built from.
    ranges: Arc<ClusterRanges>,
    tables: Tables,
    /// Whether records get the rule.
    rules: bool,
}

impl Policy {
    /// With what is known now.
    ///
    /// # Errors
    /// [`ListError`] for a file of a list that can't be read.
    pub fn new(config: &Config, context: &BuildContext) -> Result<Self, ListError> {
        let lists = Subscription::new(&lists::follow(config)?);
        let (node, cluster) = (
            Subscription::new(&context.node),
            Subscription::new(&context.cluster),
        );
        let ranges = Arc::clone(&cluster.last().ranges);
        Ok(Self {
            tables: tables(config.rules, &lists, &node, &ranges),
            rules: config.rules,
            lists,
            node,
            cluster,
            ranges,
        })
    }

    fn refresh(&mut self) {
        let mut changed = self.lists.refresh();
        changed |= self.node.refresh();
        // A cluster's names change often, its ranges hardly ever.
        changed |= self.cluster.refresh() && self.cluster.last().ranges != self.ranges;
        if changed {
            self.ranges = Arc::clone(&self.cluster.last().ranges);
            self.tables = tables(self.rules, &self.lists, &self.node, &self.ranges);
        }
    }
}

fn tables(
    rules: bool,
    lists: &Subscription<Lists>,
    node: &Subscription<NodeInfo>,
    ranges: &ClusterRanges,
) -> Tables {
    let tables = Tables::new(lists.last(), node.last(), ranges);
    if rules { tables.with_rules() } else { tables }
}

impl Processor for Policy {
    fn process(&mut self, batch: &mut FlowBatch) {
        self.refresh();
        for flow in batch.flows_mut() {
            // `direction` knows a connection that goes to a proxy on this machine, whatever its peer's address says.
            if flow.class.is_none() {
                let class = self.tables.class_of(flow);
                flow.class = Some(class);
                if self.rules {
                    flow.policy_rule = self.tables.rule_of(flow, class).cloned();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
