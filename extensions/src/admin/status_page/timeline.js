// ---- the time line: bytes above and below an axis, failures and retransmissions in strips below

const MINUTE = 60;
const STRIP = 26;
/// As the daemon keeps them; an answer says so itself.
let timeline = { kept_seconds: 900, points: [] };
let marks = [];

const clock = (seconds) => new Date(1000 * seconds).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const highest = (values) => values.reduce((most, value) => Math.max(most, value), 0);

/// Steps as one closed area over the axis at `base`; `sign` is -1 for what goes up.
function area(points, x, base, sign, height, of) {
  const most = highest(points.map((point) => of(point) / point.seconds));
  if (most === 0) return "";
  let path = "";
  let end = null;
  for (const point of points) {
    const [from, to] = [x(point.at - point.seconds), x(point.at)];
    const y = base + (sign * height * (of(point) / point.seconds)) / most;
    // Where time is missing, as after a pause of the machine, the area is interrupted.
    if (end === null || from - end > 1) path += `${end === null ? "" : `V${base}Z`}M${from.toFixed(1)} ${base}`;
    path += `V${y.toFixed(1)}H${to.toFixed(1)}`;
    end = to;
  }
  return `${path}V${base}Z`;
}

function strip(points, x, base, kind, of) {
  const most = highest(points.map(of));
  const bars = points.filter((point) => of(point) > 0).map((point) => {
    const [from, to] = [x(point.at - point.seconds), x(point.at)];
    const height = Math.max(2, ((STRIP - 14) * of(point)) / most);
    return shape("rect", { class: kind, x: from, y: base - height, width: Math.max(1, to - from - 0.5), height },
      shape("title", { text: `${of(point)} until ${clock(point.at)}` }));
  });
  return bars;
}

function drawTimeline() {
  const svg = byId("timeline");
  const { points, kept_seconds: kept } = timeline;
  const covered = points.length > 0 ? points[points.length - 1].at - points[0].at + points[0].seconds : 0;
  // A daemon that was started a moment ago has its minutes drawn as wide as there is room.
  const span = [2, 5, 10].map((minutes) => minutes * MINUTE).find((seconds) => seconds >= covered && seconds <= kept) || kept;
  const width = Math.max(280, svg.clientWidth || 0);
  const half = 56;
  const [top, axis] = [16, 16 + half];
  const strips = [axis + half + STRIP, axis + half + 2 * STRIP];
  const height = strips[1] + 20;
  const now = points.length > 0 ? points[points.length - 1].at : 0;
  const x = (at) => (width * (at - now + span)) / span;
  const sum = (of) => points.reduce((total, point) => total + of(point), 0);
  const rates = (of) => highest(points.map((point) => of(point) / point.seconds));
  const [sent, received] = [(point) => point.sent_bytes, (point) => point.received_bytes];
  const [failed, repeated] = [(point) => point.failed, (point) => point.retransmits];
  const label = (y, text, kind) => shape("text", { x: 2, y, class: `halo ${kind || ""}`, text });
  const line = (y) => shape("line", { class: "axis", x1: 0, x2: width, y1: y, y2: y });
  // A label takes some 90 pixels.
  const step = span / MINUTE > width / 90 ? 5 : 1;
  const minutes = Array.from({ length: Math.floor(span / MINUTE / step) + 1 }, (_, place) => step * place);
  const ticks = minutes.map((ago) => {
    const place = x(now - MINUTE * ago);
    const anchor = ago === 0 ? "end" : place < 20 ? "start" : "middle";
    return shape("text", { x: place, y: height - 4, class: "faint", "text-anchor": anchor, text: ago === 0 ? "now" : `${ago} min ago` });
  });
  const found = marks.filter((mark) => mark.at > now - span && mark.at <= now).map((mark) =>
    shape("path", { class: "finding", d: `M${x(mark.at) - 5} 2h10l-5 9z` }, shape("title", { text: mark.text })));
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren(
    shape("path", { class: "sent", d: area(points, x, axis, -1, half - 4, sent) }),
    shape("path", { class: "received", d: area(points, x, axis, 1, half - 4, received) }),
    line(axis), line(strips[0]), line(strips[1]), ...ticks, ...found,
    ...strip(points, x, strips[0], "failures", failed), ...strip(points, x, strips[1], "retransmits", repeated),
    label(top + 10, `sent, at most ${bytesPerSecond(rates(sent))}`),
    label(axis + half - 4, `received, at most ${bytesPerSecond(rates(received))}`),
    label(strips[0] - STRIP + 13, `${count(sum(failed))} failed connects`, sum(failed) > 0 ? "bad" : "faint"),
    label(strips[1] - STRIP + 13, `${count(sum(repeated))} retransmits`, sum(repeated) > 0 ? "warn" : "faint"),
  );
  svg.setAttribute("aria-label", points.length === 0 ? "No step yet" :
    `Over the last ${duration(covered)}: at most ${bytesPerSecond(rates(sent))} sent and ${bytesPerSecond(rates(received))} received, ` +
    `${sum(failed)} failed connects, ${sum(repeated)} retransmits. The table below has the same by minute.`);
  byId("timeline-rest").textContent = points.length === 0 ? "the first step comes with the second interval of a receiver" :
    `payload bytes over TCP and UDP, ${duration(covered)} so far; kept for ${duration(kept)}${found.length > 0 ? "; ▼ finding" : ""}`;
  drawMinutes(points, now);
}

function drawMinutes(points, now) {
  const rows = new Map();
  for (const point of points) {
    const ago = Math.floor((now - point.at) / MINUTE);
    const row = rows.get(ago) || { at: point.at, sums: Array(7).fill(0) };
    row.at = Math.max(row.at, point.at);
    const values = [point.sent_bytes, point.received_bytes, point.opened, point.failed, point.resets, point.retransmits, point.dropped_packets];
    row.sums = row.sums.map((sum, place) => sum + values[place]);
    rows.set(ago, row);
  }
  const newest = Array.from(rows).sort(([one], [other]) => one - other);
  byId("timeline-table").tBodies[0].replaceChildren(...newest.map(([, row]) =>
    element("tr", {}, element("th", { scope: "row", text: clock(row.at) }),
      ...row.sums.map((sum, place) => cell(place < 2 ? bytes(sum) : String(sum), place === 3 && sum > 0 ? "number bad" : "number")))));
}
