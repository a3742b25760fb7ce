// ---- the daemon itself

const INTERVAL = 1000;

/// Counters as they stood at the last look, to make rates of.
let before = new Map();

function read(status, at) {
  const now = new Map();
  const samples = status.metrics.map((sample) => {
    const key = sample.name + JSON.stringify(sample.labels);
    const earlier = before.get(key);
    const grown = earlier ? Math.max(0, sample.value - earlier.value) : 0;
    // Most counters move once per window, which may be longer than the time between two looks: a rate is of the time between two
    // moves, and stands until the next one is overdue.
    let seen = { at, value: sample.value, rate: 0, period: INTERVAL };
    if (earlier && sample.value === earlier.value) {
      seen = at - earlier.at > 2.5 * earlier.period ? { ...earlier, rate: 0 } : earlier;
    } else if (earlier) {
      seen.period = Math.max(INTERVAL, at - earlier.at);
      seen.rate = 1000 * grown / seen.period;
    }
    now.set(key, seen);
    return { ...sample, grown, rate: seen.rate };
  });
  before = now;
  const matches = (sample, name, labels) => sample.name === "flowtap_" + name &&
    Object.entries(labels).every(([key, value]) => sample.labels[key] === value);
  const select = (name, labels) => samples.filter((sample) => matches(sample, name, labels || {}));
  const sum = (name, labels, of) => select(name, labels).reduce((total, sample) => total + sample[of || "value"], 0);
  return { select, sum };
}

/// Description of a component: lines for the graph, a state, a sentence, and how full its queue is.
function describe(kind, id, pipelineName, isWindow, metrics) {
  const { select, sum } = metrics;
  if (kind === "receiver") {
    const mode = select("receiver_mode", { receiver: id }).map(({ labels }) => labels)[0];
    const refused = sum("receiver_refused_records_total", { receiver: id });
    const grown = sum("receiver_refused_records_total", { receiver: id }, "grown");
    return {
      lines: [perSecond(sum("receiver_accepted_records_total", { receiver: id }, "rate")) + " records",
        count(refused) + " refused"],
      state: grown > 0 ? ["losing", "bad"] : mode && mode.mode === "sock_diag" ? ["fallback", "warn"] : ["ok", "good"],
      note: (mode ? "mode " + mode.mode + ": " + mode.reason + "; " : "") + count(refused) + " records refused",
    };
  }
  if (kind === "processor" && isWindow) {
    const folded = sum("processor_folded_records_total", { pipeline: pipelineName });
    const grown = sum("processor_folded_records_total", { pipeline: pipelineName }, "grown");
    const live = sum("processor_live_series", { pipeline: pipelineName });
    return {
      lines: [count(live) + " series", count(folded) + " folded"],
      state: grown > 0 ? ["at max_series", "warn"] : ["ok", "good"],
      note: count(live) + " series; " + count(folded) + " changes went into `other`",
    };
  }
  if (kind === "processor") {
    const dropped = sum("processor_dropped_records_total", { processor: id });
    return {
      lines: [count(dropped) + " left out"],
      state: ["ok", "good"],
      note: count(dropped) + " records left out by its rules",
    };
  }
  const size = sum("exporter_queue_size", { exporter: id });
  const capacity = sum("exporter_queue_capacity", { exporter: id });
  const failed = sum("exporter_send_failed_metric_points_total", { exporter: id });
  const rejected = sum("exporter_enqueue_failed_metric_points_total", { exporter: id });
  const failing = sum("exporter_send_failed_metric_points_total", { exporter: id }, "grown") +
    sum("exporter_enqueue_failed_metric_points_total", { exporter: id }, "grown");
  return {
    lines: [perSecond(sum("exporter_sent_metric_points_total", { exporter: id }, "rate")) + " points",
      count(failed + rejected) + " dropped"],
    state: failing > 0 ? ["failing", "bad"] : capacity > 0 && size >= capacity ? ["behind", "warn"] : ["ok", "good"],
    note: count(failed) + " points not delivered, " + count(rejected) + " dropped; queue " + size + " of " + capacity,
    queue: [size, capacity],
  };
}

function node(kind, id, summary) {
  const box = element("li", { class: "node", "data-kind": kind, "data-component": id },
    element("b", { text: id }),
    element("span", { class: "faint", text: kind }),
    ...summary.lines.map((text) => element("span", { text })));
  if (summary.queue) {
    const [size, capacity] = summary.queue;
    const text = "queue " + size + " of " + capacity;
    box.append(element("span", { text }), element("meter", { min: 0, max: capacity || 1, value: size, "aria-label": text }));
  }
  return box;
}

// The daemon's own word on a component comes before what its counters say.
const STATES = {
  starting: ["starting", "warn"], recoverable_error: ["failing", "bad"], permanent_error: ["ended", "bad"], stopping: ["stopping", "warn"],
};

function judged(kind, id, summary, status) {
  const said = status.components[kind + "s/" + id];
  if (said === undefined) return summary;
  return { ...summary, state: STATES[said.state] || summary.state, note: (said.error ? said.error + "; " : "") + summary.note };
}

function drawStatus(graph, status, at) {
  const metrics = read(graph, at);
  byId("host").textContent = status.host || "";
  byId("version").textContent = status.version;
  byId("uptime").textContent = `up ${duration(Date.now() / 1000 - status.started_unix_nano / 1e9)}`;
  document.title = status.host ? `flowtap ${status.host}` : "flowtap";
  byId("ready").textContent = status.ready ? "measuring" : "not ready";
  byId("ready").className = "state " + (status.ready ? "good" : "bad");
  byId("config").textContent = status.config.error ? "the new config is refused: " + status.config.error : "";

  const components = new Map();
  const graphs = graph.pipelines.map(({ name, receivers, processors, exporters }) => {
    const stage = (kind, ids, windowed) => element("li", {}, element("ul", { class: "stage" }, ...ids.map((id) => {
      const summary = judged(kind, id, describe(kind, id, name, windowed, metrics), status);
      // Processors are each pipeline's own.
      components.set(kind === "processor" ? kind + " " + id + " (" + name + ")" : kind + " " + id, summary);
      return node(kind, id, summary);
    })));
    const stages = [stage("receiver", receivers, false)];
    for (const [place, id] of processors.entries()) stages.push(stage("processor", [id], place === processors.length - 1));
    stages.push(stage("exporter", exporters, false));
    return element("div", { "data-pipeline": name }, element("h3", { text: name }), element("ol", { class: "graph" }, ...stages));
  });
  byId("graph").replaceChildren(...graphs);

  const rows = Array.from(components, ([name, { state, note }]) => element("tr", { "data-health": name },
    element("th", { scope: "row", text: name }), cell(state[0], "state " + state[1]), cell(note)));
  byId("health").tBodies[0].replaceChildren(...rows);

  const covered = metrics.select("receiver_coverage_ratio").map(({ labels, value }) => {
    const of = (name) => metrics.sum(name, { receiver: labels.receiver, counter: labels.counter });
    return element("tr", {}, cell(labels.receiver || ""), cell(labels.counter || ""),
      cell((100 * value).toFixed(2) + " %", "number"),
      cell(count(of("receiver_coverage_measured_total")), "number"),
      cell(count(of("receiver_coverage_kernel_total")), "number"));
  });
  byId("coverage").tBodies[0].replaceChildren(...covered);
}
