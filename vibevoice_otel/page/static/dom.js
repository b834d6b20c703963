// Small helpers. Text only ever becomes text nodes, so whatever a request holds is shown and never run.

/** An element with properties (`class`, `on`, `data`, attributes) and children (nodes or text). */
export function el(tag, properties = {}, ...children) {
  const node = tag.startsWith("svg:") ? document.createElementNS("http://www.w3.org/2000/svg", tag.slice(4)) : document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "on") for (const [event, handler] of Object.entries(value)) node.addEventListener(event, handler);
    else if (name === "data") Object.assign(node.dataset, value);
    else if (name === "css") Object.assign(node.style, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export const $ = (id) => document.getElementById(id);

/** Seconds as people read them: 182 ms, 2.4 s, 3 min 5 s. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  const size = Math.abs(seconds);
  if (size === 0) return "0 s";
  if (size < 0.00095) return `${(seconds * 1e6).toFixed(0)} µs`;
  if (size < 0.00995) return `${(seconds * 1e3).toFixed(1)} ms`;
  if (size < 0.9995) return `${(seconds * 1e3).toFixed(0)} ms`;
  if (size < 9.995) return `${seconds.toFixed(2)} s`;
  if (size < 90) return `${seconds.toFixed(1)} s`;
  return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}

export const percent = (share) => (share === null ? "–" : `${(share * 100).toFixed(share > 0.0995 && share < 0.9995 ? 0 : share === 1 || share === 0 ? 0 : 1)} %`);

export function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = count;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) [value, unit] = [value / 1024, unit + 1];
  return `${value >= 100 || unit === 0 ? value.toFixed(0) : value.toFixed(1)} ${units[unit]}`;
}

export const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

/** The value below which `share` of the numbers lie (nearest rank); null for none. */
export function quantile(numbers, share) {
  if (!numbers.length) return null;
  const sorted = [...numbers].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.max(0, Math.ceil(share * sorted.length) - 1))];
}

const colors = new Map();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  colors.clear();
  document.dispatchEvent(new Event("theme"));
});

/** The value of a CSS custom property now: color("k-step"). */
export function color(name) {
  if (!colors.has(name)) colors.set(name, getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim());
  return colors.get(name);
}

/** Size a canvas to its box (CSS pixels) and the screen's density; returns its context, scaled. */
export function sized(canvas, width, height) {
  const density = window.devicePixelRatio || 1;
  const [w, h] = [Math.max(1, Math.round(width * density)), Math.max(1, Math.round(height * density))];
  if (canvas.width !== w || canvas.height !== h) {
    [canvas.width, canvas.height] = [w, h];
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  const context = canvas.getContext("2d");
  context.setTransform(density, 0, 0, density, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}
