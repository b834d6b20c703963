// The page's own server: JSON, streams of JSON lines, and how far its clock is from ours.

const fragment = new URLSearchParams(location.hash.slice(1));
if (fragment.has("token")) {
  sessionStorage.setItem("token", fragment.get("token"));
  history.replaceState(null, "", location.pathname);
}

export class Unauthorized extends Error {}

export const setToken = (token) => sessionStorage.setItem("token", token);

function headers(more = {}) {
  const token = sessionStorage.getItem("token");
  return token ? { ...more, Authorization: `Bearer ${token}` } : more;
}

async function checked(response) {
  if (response.status === 401) throw new Unauthorized();
  if (!response.ok) throw new Error((await response.json().catch(() => ({}))).error ?? `HTTP ${response.status}`);
  return response;
}

export async function get(path) {
  return (await checked(await fetch(path, { headers: headers(), cache: "no-store" }))).json();
}

export async function post(path, body) {
  const options = { method: "POST", headers: headers({ "Content-Type": "application/json" }), body: JSON.stringify(body), keepalive: true };
  return (await checked(await fetch(path, options))).json();
}

/** Each message of a stream of JSON lines, as it comes. */
export async function* lines(path, signal) {
  const response = await checked(await fetch(path, { headers: headers(), cache: "no-store", signal }));
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    for (const part of parts) if (part) yield JSON.parse(part);
  }
}

/** Our time in seconds since 1970, for a performance.now() value. */
export const wall = (at = performance.now()) => (performance.timeOrigin + at) / 1000;

/** What to add to our clock to get the server's, and by how much that may be wrong (seconds). */
export const clock = { offset: 0, error: null };

/** As NTP does: of several exchanges the one with the shortest way there and back tells most; half of it is the error. */
export async function measureClock(rounds = 8) {
  let best = null;
  for (let i = 0; i < rounds; i++) {
    const sent = wall();
    const { received, sent: answered } = await get("/api/clock");
    const back = wall();
    const trip = back - sent - (answered - received);
    if (best === null || trip < best.trip) best = { trip, offset: (received - sent + (answered - back)) / 2 };
  }
  clock.offset = best.offset;
  clock.error = Math.max(0, best.trip / 2);
}
