"use strict";
// Every text is set as text, never as markup: the names of peers and processes are not ours.

const byId = (id) => document.getElementById(id);

function filled(made, options, children) {
  for (const [name, value] of Object.entries(options)) {
    if (name === "text") made.textContent = value;
    else if (name === "class") made.setAttribute("class", value);
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

const element = (tag, options = {}, ...children) => filled(document.createElement(tag), options, children);
const shape = (tag, options = {}, ...children) =>
  filled(document.createElementNS("http://www.w3.org/2000/svg", tag), options, children);
const cell = (text, kind) => element("td", { text, class: kind || "" });

function scaled(value, units, step) {
  let [unit, rest] = [0, value];
  while (rest >= step && unit < units.length - 1) {
    rest /= step;
    unit += 1;
  }
  const digits = unit === 0 || rest >= 100 ? 0 : rest >= 10 ? 1 : 2;
  return rest.toFixed(digits) + units[unit];
}
const bytes = (value) => scaled(value, [" B", " kB", " MB", " GB", " TB", " PB"], 1000);
const count = (value) => scaled(value, ["", " k", " M", " G", " T"], 1000);
const time = (microseconds) => scaled(microseconds, [" µs", " ms", " s"], 1000);
const perSecond = (value) => `${count(value)}/s`;
const bytesPerSecond = (value) => `${bytes(value)}/s`;

function duration(seconds) {
  const [days, hours, minutes] = [Math.floor(seconds / 86400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60];
  if (days > 0) return `${days} d ${hours} h`;
  if (hours > 0) return `${hours} h ${minutes} min`;
  return minutes > 0 ? `${minutes} min` : `${Math.floor(seconds)} s`;
}

/// Both ends of an address are significant: what is cut off is in the middle.
function cut(text, length) {
  const characters = Array.from(text);
  if (characters.length <= length) return text;
  const head = Math.ceil((length - 1) / 2);
  return `${characters.slice(0, head).join("")}…${characters.slice(characters.length - (length - 1 - head)).join("")}`;
}

// ---- causes

const WORST = ["refused", "no_answer", "unreachable", "no_local_port", "connect_failed", "accept_queue", "black_hole"];
const isFine = (cause) => [null, "idle", "application", "inbound"].includes(cause);
const health = (cause) => (WORST.includes(cause) ? "bad" : isFine(cause) ? "good" : "warn");
const causeClass = (cause) => `cause ${health(cause)}`;
