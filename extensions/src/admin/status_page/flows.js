// ---- flows

const rateOf = (side) => (side ? side.per_second : 0);
const totalOf = (side) => (side ? side.total : 0);
const sides = (flow) => [flow.outbound, flow.inbound, flow.undirected];
const rate = (flow) => sides(flow).reduce((sum, side) => sum + rateOf(side), 0);
const total = (flow) => sides(flow).reduce((sum, side) => sum + totalOf(side), 0);
const label = (flow, name) => flow.labels[name] || "";

function peer(flow) {
  const names = ["raddr", "peer_name", "peer_pod", "peer_service", "peer_workload", "peer_namespace"];
  return names.map((name) => label(flow, name)).find((value) => value !== "") || "(all)";
}
function port(flow) {
  const [first, second] = flow.role === "ingress" ? ["lport", "rport"] : ["rport", "lport"];
  return label(flow, first) || label(flow, second);
}
/// By the labels; where they have no process, by the records of the row's peer, port and role.
function process(flow) {
  const named = [label(flow, "comm"), label(flow, "pid")].filter((part) => part !== "").join("/");
  if (named !== "" || !flow.recent || !flow.recent.comm) return named;
  return flow.recent.comm + (flow.recent.several_processes ? ", …" : "");
}
/// By the labels; where they have none, by the newest records of the row's peer, port and role.
function detail(flow, name) {
  const port = name === "backend" ? label(flow, "backend_port") : "";
  if (label(flow, name) !== "") return port === "" ? label(flow, name) : withPort(label(flow, name), port);
  if (!flow.recent || !flow.recent[name]) return "";
  return flow.recent[name] + ((flow.recent.several || []).includes(name) ? ", …" : "");
}
const withPort = (host, port) => (host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`);
/// The name of the peer's address with its source, unless it stands for the peer.
function peerName(flow) {
  const [name, source] = [detail(flow, "peer_name"), detail(flow, "peer_name_source")];
  if (name === "" || name === peer(flow)) return source;
  return source === "" ? name : `${name} (${source})`;
}
const klass = (flow) => label(flow, "type") || (flow.metric === "network_flow_dns" ? "dns" : "");
const shownElsewhere = ["raddr", "rport", "lport", "type", "comm", "pid", "flow", "peer_name", "peer_name_source", "protocol",
  "server_name", "backend", "backend_port", "hop"];
const more = (flow) => Object.entries(flow.labels)
  .filter(([name, value]) => !shownElsewhere.includes(name) && value !== "" && value !== peer(flow))
  .map(([name, value]) => `${name}=${value}`).join(" ");
const retransmits = (flow) => (flow.recent ? count(flow.recent.retransmits) : flow.retransmits ? count(flow.retransmits.total) : "");
const side = (one) => (one ? bytesPerSecond(one.per_second) : "");

// Title, the order that the daemon knows it by, its text, whether it is a number, and what is shown to who points at it.
const COLUMNS = [
  ["Peer", "peer", peer],
  ["Port", "port", port],
  ["Role", "role", (flow) => flow.role || ""],
  ["Class", "class", klass],
  ["Process", "process", process],
  ["Out", "outbound", (flow) => side(flow.outbound), true],
  ["In", "inbound", (flow) => side(flow.inbound), true],
  ["Both", "rate", (flow) => bytesPerSecond(rate(flow)), true],
  ["Total", "total", (flow) => bytes(total(flow)), true, (flow) => `${total(flow)} bytes`],
  ["RTT", "rtt", (flow) => (typeof flow.rtt_microseconds === "number" ? time(flow.rtt_microseconds) : ""), true],
  ["Retransmits", "retransmits", retransmits, true],
  ["Failed", null, (flow) => (flow.recent && flow.recent.failed > 0 ? count(flow.recent.failed) : ""), true],
  ["Why", "cause", (flow) => (flow.recent && flow.recent.cause !== "idle" ? flow.recent.cause : ""), false,
    (flow) => (flow.recent ? flow.recent.sentence : "")],
  ["Name", null, peerName],
  ["Protocol", null, (flow) => detail(flow, "protocol")],
  ["Server name", null, (flow) => detail(flow, "server_name")],
  ["Backend", null, (flow) => detail(flow, "backend")],
  ["Hop", null, (flow) => detail(flow, "hop")],
  ["Other labels", null, more],
];

const SHOWN = 100;

let order = "rate";
let pipeline = "";
let seen = null;

function drawHead() {
  const cells = COLUMNS.map(([title, name, , number]) => {
    const head = element("th", { scope: "col", class: number ? "number" : "" });
    if (name === null) {
      head.textContent = title;
      return head;
    }
    const button = element("button", { type: "button", text: title });
    button.addEventListener("click", () => {
      order = name;
      markOrder();
      poll();
    });
    head.dataset.order = name;
    head.dataset.number = number ? "1" : "";
    head.append(button);
    return head;
  });
  byId("flows").tHead.rows[0].replaceChildren(...cells);
  markOrder();
}

function markOrder() {
  for (const head of byId("flows").tHead.rows[0].cells) {
    if (head.dataset.order === order) head.setAttribute("aria-sort", head.dataset.number ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
}

function drawFlows() {
  if (seen === null) return;
  const wanted = byId("filter").value.trim().toLowerCase();
  const matches = (flow) => COLUMNS.some(([, , text]) => text(flow).toLowerCase().includes(wanted));
  const kept = seen.flows.filter((flow) => wanted === "" || matches(flow));
  // A column that no row fills takes room from those that are full.
  const full = COLUMNS.map(([, name, text]) => name === order || kept.length === 0 || kept.some((flow) => text(flow) !== ""));
  const rows = kept.slice(0, SHOWN).map((flow) =>
    element("tr", {}, ...COLUMNS.filter((_, place) => full[place]).map(([, , text, number, exactly]) =>
      element("td", { text: text(flow), class: number ? "number" : "", ...(exactly && { title: exactly(flow) }) }))));
  Array.from(byId("flows").tHead.rows[0].cells).forEach((head, place) => { head.hidden = !full[place]; });
  byId("flows").tBodies[0].replaceChildren(...rows);
  byId("summary").textContent = `${rows.length} of ${seen.total} flows; out ${bytesPerSecond(seen.outbound_bytes_per_second)}, ` +
    `in ${bytesPerSecond(seen.inbound_bytes_per_second)} over the last ${seen.window_seconds.toFixed(1)} s`;
  const select = byId("pipeline");
  byId("pipeline-label").hidden = seen.pipelines.length < 2;
  const known = Array.from(select.options, (option) => option.value);
  if (known.join("\n") !== seen.pipelines.join("\n")) {
    select.replaceChildren(...seen.pipelines.map((name) => element("option", { value: name, text: name })));
    select.value = seen.pipeline;
  }
}
