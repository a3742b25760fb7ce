// ---- asking

const ASKED = 1000;
const VERDICTS = 50;
const FINDINGS = 50;
const EDGES = 60;
/// Looks after which the time line is asked for again: its steps take some seconds.
const STEP = 5;

async function ask(path) {
  const answer = await fetch(path, { cache: "no-store" });
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${(await answer.text()).trim()}`);
  return answer.json();
}

let timer = 0;
let asked = 0;
let sinceStep = STEP;
let paused = false;

async function poll() {
  clearTimeout(timer);
  asked += 1;
  const number = asked;
  const query = (parameters) => new URLSearchParams(pipeline === "" ? parameters : { ...parameters, pipeline });
  let answers = null;
  let trouble = "";
  try {
    answers = await Promise.all([
      ask(`flows?${query({ limit: ASKED, sort: order })}`), ask("pipelines"), ask("status"),
      ask(`verdicts?${query({ limit: VERDICTS })}`), ask(`findings?limit=${FINDINGS}`), ask(`map?${query({ limit: EDGES })}`),
      sinceStep >= STEP ? ask(`timeline?${query({})}`) : null,
    ]);
  } catch (error) {
    trouble = `the daemon does not answer: ${error.message}`;
  }
  // A later question may have been answered first.
  if (number !== asked) return;
  byId("trouble").textContent = trouble;
  if (!paused) timer = setTimeout(poll, INTERVAL);
  if (answers !== null) draw(...answers);
}

function draw(flows, graph, status, verdicts, findings, edges, steps) {
  seen = flows;
  drawFlows();
  drawVerdicts(verdicts);
  drawFindings(findings);
  drawStatus(graph, status, performance.now());
  // The map stands still between two intervals of a receiver, so that it can be pointed at.
  const isNewer = edges.at !== map.at || edges.pipeline !== map.pipeline;
  map = edges;
  if (isNewer) drawMap();
  sinceStep += 1;
  if (steps !== null) {
    timeline = steps;
    sinceStep = 1;
    drawTimeline();
  }
}

function stop() {
  asked += 1;
  clearTimeout(timer);
}

byId("filter").addEventListener("input", drawFlows);
byId("pipeline").addEventListener("change", (event) => {
  pipeline = event.target.value;
  sinceStep = STEP;
  poll();
});
byId("pause").addEventListener("click", (event) => {
  paused = !paused;
  event.target.setAttribute("aria-pressed", String(paused));
  if (paused) stop();
  else poll();
});
document.addEventListener("visibilitychange", () => {
  // Nobody looks: nothing is asked until somebody does.
  if (document.hidden) stop();
  else if (!paused) poll();
});
// Being observed also draws both for the first time. Their height is that of their contents, which changes nothing.
let widest = 0;
new ResizeObserver(([{ contentRect }]) => {
  if (contentRect.width === widest) return;
  widest = contentRect.width;
  drawTimeline();
  drawMap();
}).observe(document.querySelector("main"));
drawHead();
poll();
