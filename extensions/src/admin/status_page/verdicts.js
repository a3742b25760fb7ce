// ---- verdicts and findings

/// Puts `items` into `list`, an element each, and keeps those that are there: one that is open or has the focus stays so.
function drawList(list, items, keyOf, make, fill) {
  const known = new Map(Array.from(list.children, (child) => [child.dataset.key, child]));
  const wanted = items.map((item) => {
    const key = keyOf(item);
    const child = known.get(key) || make();
    child.dataset.key = key;
    fill(child, item);
    return child;
  });
  // A moved element loses the focus: the order waits until it is elsewhere.
  const focused = Array.from(list.children).find((child) => child.contains(document.activeElement));
  if (!focused) {
    list.replaceChildren(...wanted);
    return;
  }
  for (const child of Array.from(list.children)) if (child !== focused && !wanted.includes(child)) child.remove();
  for (const child of wanted) if (!list.contains(child)) list.append(child);
}

function newVerdict() {
  return element("li", {}, element("strong"), " ", element("span"), " ", element("span"),
    element("details", {}, element("summary", { text: "Evidence" }), element("ul")));
}

function fillVerdict(item, verdict) {
  const [peerName, cause, sentence] = item.children;
  peerName.textContent = `${verdict.raddr} port ${verdict.server_port}, ${verdict.flow}${verdict.comm ? `, ${verdict.comm}` : ""}`;
  cause.textContent = verdict.cause;
  cause.className = causeClass(verdict.cause);
  sentence.textContent = verdict.sentence;
  item.querySelector("ul").replaceChildren(...verdict.evidence.map((text) => element("li", { text })));
}

function drawVerdicts(verdicts) {
  const measured = verdicts.seconds > 0;
  byId("why-cause").textContent = measured ? verdicts.cause : "";
  byId("why-cause").className = causeClass(verdicts.cause);
  byId("why-sentence").textContent = measured ? verdicts.sentence : "measuring; the first verdict comes after an interval of the receiver";
  const limited = verdicts.peers.filter((peer) => !isFine(peer.cause));
  drawList(byId("why"), limited, (peer) => [peer.raddr, peer.server_port, peer.flow].join(" "), newVerdict, fillVerdict);
  const rest = [];
  if (measured) {
    rest.push(`${limited.length} of ${verdicts.total} peers listed, over the last ${verdicts.seconds.toFixed(0)} s; ` +
      "the others are limited by their application, or less");
  }
  if (verdicts.records_of_further_peers > 0) rest.push(`${count(verdicts.records_of_further_peers)} records of further peers`);
  for (const [reason, packets] of Object.entries(verdicts.drops)) rest.push(`${count(packets)} packets dropped on this machine: ${reason}`);
  byId("why-rest").textContent = rest.join("; ");
}

function newFinding() {
  return element("li", {}, element("time", { class: "faint" }), " ", element("strong"), " ", element("span"), " ",
    element("span", { class: "faint" }));
}

function fillFinding(item, finding) {
  const [at, kind, text, details] = item.children;
  at.textContent = finding.at.replace("T", " ");
  at.dateTime = finding.at;
  kind.textContent = finding.kind;
  text.textContent = finding.text;
  const numbers = Object.entries(finding.numbers);
  const place = ["raddr", "laddr", "pid", "comm", "netns"].map((name) => [name, finding[name]]).filter(([, value]) => value);
  details.textContent = [...numbers, ...place].map(([name, value]) => `${name}=${value}`).join(" ");
}

function drawFindings(answer) {
  drawList(byId("findings"), answer.findings, (finding) => [finding.at, finding.kind, finding.text].join(" "), newFinding, fillFinding);
  byId("findings-rest").textContent = answer.total === 0
    ? "None. The processor watch makes findings, if a pipeline has it."
    : `${answer.findings.length} of ${answer.total} since the start`;
  marks = answer.findings.map((finding) => ({ at: Date.parse(finding.at) / 1000, text: `${finding.kind}: ${finding.text}` }));
}
