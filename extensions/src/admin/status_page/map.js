// ---- the map: processes and workloads of this node on the left, peers on the right

const ROW = 30;
const CHARACTER = 6.7;
let map = { seconds: 0, total: 0, edges: [], others: { edges: 0 }, records_of_further_edges: 0 };

const within = (namespace, name) => (namespace ? `${namespace}/${name}` : name);

function ownerOf(edge) {
  if (edge.local_workload) return within(edge.local_namespace, edge.local_workload);
  if (edge.local_pod) return within(edge.local_namespace, edge.local_pod);
  const name = edge.comm || "(unknown process)";
  return edge.container_id ? `${name} in ${edge.container_id.slice(0, 12)}` : name;
}

function peerOf(edge) {
  const name = edge.peer_service || edge.peer_workload || edge.peer_pod;
  return name ? within(edge.peer_namespace, name) : edge.peer_name || edge.raddr;
}

/// A client's port is of no interest: its peer stands once.
function placeOf(edge) {
  const name = peerOf(edge);
  if (edge.flow === "ingress") return name;
  return name.includes(":") ? `[${name}]:${edge.server_port}` : `${name}:${edge.server_port}`;
}

const bytesOf = (edge) => edge.sent_bytes + edge.received_bytes;
const rank = { good: 0, warn: 1, bad: 2 };

/// Edges with the same two ends, as one: the worst state is that of both.
function merged(edges, ends) {
  const sums = new Map();
  for (const edge of edges) {
    const [owner, place] = ends(edge);
    const key = JSON.stringify([owner, place, edge.flow]);
    const sum = sums.get(key) || { owner, place, flow: edge.flow, bytes: 0, failed: 0, cause: null, sentence: "" };
    sum.bytes += bytesOf(edge);
    sum.failed += edge.failed;
    if (sum.cause === null || rank[health(edge.cause)] > rank[health(sum.cause)]) {
      [sum.cause, sum.sentence] = [edge.cause, edge.sentence];
    }
    sums.set(key, sum);
  }
  return Array.from(sums.values());
}

/// The names on one side, at most `most`: those that fail first, then by bytes. Returns what stands for each.
function chosen(edges, nameOf, most, noun) {
  const weights = new Map();
  for (const edge of edges) {
    const weight = weights.get(nameOf(edge)) || { bad: 0, bytes: 0 };
    weight.bad = Math.max(weight.bad, rank[health(edge.cause)] === rank.bad ? 1 : 0);
    weight.bytes += bytesOf(edge);
    weights.set(nameOf(edge), weight);
  }
  const sorted = Array.from(weights).sort(([, one], [, other]) => other.bad - one.bad || other.bytes - one.bytes).map(([name]) => name);
  if (sorted.length <= most) return (name) => name;
  const kept = new Set(sorted.slice(0, most - 1));
  const rest = `${sorted.length - kept.size} more ${noun}`;
  return (name) => (kept.has(name) ? name : rest);
}

/// Names in the order in which they are drawn: the left side by bytes, the right side next to what it talks to.
function inOrder(edges) {
  const sum = (key) => {
    const sums = new Map();
    for (const edge of edges) sums.set(edge[key], (sums.get(edge[key]) || 0) + edge.bytes);
    return sums;
  };
  const owners = Array.from(sum("owner")).sort(([, one], [, other]) => other - one).map(([name]) => name);
  const places = sum("place");
  const level = (place) => {
    const levels = edges.filter((edge) => edge.place === place).map((edge) => owners.indexOf(edge.owner));
    return levels.reduce((total, one) => total + one, 0) / levels.length;
  };
  const sorted = Array.from(places).sort(([one, few], [other, many]) => level(one) - level(other) || many - few);
  return [owners, sorted.map(([name]) => name)];
}

function drawNode(name, x, y, width) {
  return shape("g", {},
    shape("rect", { class: "box", x, y: y - 11, width, height: 22, rx: 3 }),
    shape("text", { x: x + 6, y: y + 4, text: cut(name, Math.floor((width - 10) / CHARACTER)) }),
    shape("title", { text: name }));
}

/// A point of the curve that `drawEdge` draws, from 0 at this node to 1 at the peer.
function along(from, to, t) {
  const middle = (from.x + to.x) / 2;
  const [first, second, third, last] = [(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t ** 3];
  return { x: first * from.x + (second + third) * middle + last * to.x, y: (first + second) * from.y + (third + last) * to.y };
}

function drawEdge(edge, from, to, most, seconds, isNarrow) {
  const state = health(edge.cause);
  const width = 1.5 + 9 * Math.sqrt(most > 0 ? edge.bytes / most : 0);
  // The arrow is at the end that serves; the line stops short of it.
  const isServer = edge.flow === "ingress";
  const [head, half] = [9, width / 2 + 3.5];
  const tip = isServer ? from : to;
  const [start, end] = isServer ? [{ ...from, x: from.x + head }, to] : [from, { ...to, x: to.x - head }];
  const middle = (start.x + end.x) / 2;
  const text = `${edge.owner} ${isServer ? "serves" : "to"} ${edge.place}: ${bytesPerSecond(edge.bytes / seconds)}` +
    (edge.failed > 0 ? `, ${edge.failed} failed connects` : "") + (isFine(edge.cause) ? "" : `; ${edge.cause}: ${edge.sentence}`);
  const drawn = [
    shape("path", { class: `edge ${state}`, "stroke-width": width.toFixed(1),
      d: `M${start.x} ${start.y}C${middle} ${start.y} ${middle} ${end.y} ${end.x} ${end.y}` }),
    shape("path", { class: `arrow ${state}`, d: `M${tip.x} ${tip.y}l${isServer ? head : -head} ${-half}v${2 * half}z` }),
  ];
  if (state !== "good") {
    const mark = isNarrow ? (state === "bad" ? "✕" : "!") : edge.failed > 0 ? `${edge.cause} × ${count(edge.failed)}` : edge.cause;
    // Near the peer, where edges are apart.
    const { x, y } = along(start, end, 0.72);
    drawn.push(shape("text", { x, y: y + 4, class: `halo ${state}`, "text-anchor": "middle", text: mark }));
  }
  return shape("g", {}, ...drawn, shape("title", { text }));
}

function drawMap() {
  const svg = byId("map");
  const width = Math.max(280, svg.clientWidth || 0);
  const isNarrow = width < 560;
  const most = isNarrow ? 8 : 12;
  const shownOwner = chosen(map.edges, ownerOf, most, "processes");
  const shownPlace = chosen(map.edges, placeOf, most, "peers");
  const edges = merged(map.edges, (edge) => [shownOwner(ownerOf(edge)), shownPlace(placeOf(edge))]);
  const [owners, places] = inOrder(edges);
  const box = Math.min(300, Math.floor(width * (isNarrow ? 0.4 : 0.34)));
  const rows = Math.max(owners.length, places.length, 1);
  // The shorter side is spread over the height of the other.
  const y = (names, name) => 16 + (ROW * rows * (names.indexOf(name) + 0.5)) / names.length;
  const mostBytes = highest(edges.map((edge) => edge.bytes));
  const height = 32 + ROW * rows;
  const lines = edges.map((edge) => drawEdge(edge, { x: box, y: y(owners, edge.owner) },
    { x: width - box, y: y(places, edge.place) }, mostBytes, map.seconds, isNarrow));
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren(
    shape("text", { x: 0, y: 12, class: "faint", text: "this node" }),
    shape("text", { x: width, y: 12, class: "faint", "text-anchor": "end", text: "peers" }),
    ...lines,
    ...owners.map((name) => drawNode(name, 0.5, y(owners, name), box - 1)),
    ...places.map((name) => drawNode(name, width - box + 0.5, y(places, name), box - 1)),
  );
  describeMap(svg, edges, owners, places);
  drawEdgeTable();
}

function describeMap(svg, edges, owners, places) {
  if (edges.length === 0) {
    svg.setAttribute("aria-label", "No traffic yet");
    byId("map-rest").textContent = map.seconds > 0 ? `no traffic in the last ${map.seconds.toFixed(0)} s` : "measuring";
    return;
  }
  const limited = edges.filter((edge) => !isFine(edge.cause));
  svg.setAttribute("aria-label", `${owners.length} of this node's processes or workloads and ${places.length} peers; ` +
    (limited.length === 0 ? "none is limited. " : `limited: ${limited.map((edge) => `${edge.owner} and ${edge.place}, ${edge.cause}`).join("; ")}. `) +
    "The table below has the same.");
  const { others } = map;
  const rest = [`width: bytes per second over the last ${map.seconds.toFixed(0)} s; the arrow points to the side that serves; dashed: limited, dotted: connects fail`];
  if (others.edges > 0) {
    rest.push(`not drawn: ${count(others.edges)} of ${count(map.total)} edges with ${bytesPerSecond((others.sent_bytes + others.received_bytes) / map.seconds)}` +
      ` and ${count(others.failed)} failed connects`);
  }
  if (map.records_of_further_edges > 0) rest.push(`${count(map.records_of_further_edges)} records of further edges`);
  byId("map-rest").textContent = rest.join("; ");
}

function drawEdgeTable() {
  const rows = map.edges.map((edge) => element("tr", {},
    element("th", { scope: "row", text: ownerOf(edge) }),
    cell(peerOf(edge) === edge.raddr ? edge.raddr : `${peerOf(edge)} (${edge.raddr})`),
    cell(`${edge.server_port}${edge.transport === "tcp" ? "" : ` ${edge.transport}`}`), cell(edge.flow), cell(edge.type || ""),
    cell(bytesPerSecond(edge.sent_bytes / map.seconds), "number"), cell(bytesPerSecond(edge.received_bytes / map.seconds), "number"),
    cell(count(edge.failed), edge.failed > 0 ? "number bad" : "number"), cell(count(edge.retransmits), "number"),
    element("td", {}, element("span", { class: causeClass(edge.cause), text: isFine(edge.cause) ? "" : edge.cause }),
      isFine(edge.cause) ? "" : ` ${edge.sentence}`)));
  byId("map-table").tBodies[0].replaceChildren(...rows);
}
