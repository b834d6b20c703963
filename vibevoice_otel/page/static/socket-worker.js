// The listener's socket, off the main thread: what the page draws can never delay what is heard, or the account of it.

let player = null; // the audio thread's port
let socket = null;

const wall = () => (performance.timeOrigin + performance.now()) / 1000;

self.onmessage = ({ data }) => {
  if (data.type === "player") player = data.port;
  else if (data.type === "open") open(data);
  else if (data.type === "close") socket?.close(1000);
};

function open({ address, run, silent }) {
  socket?.close(1000);
  const own = new WebSocket(address);
  socket = own;
  own.binaryType = "arraybuffer";
  own.onopen = () => postMessage({ type: "opened", run });
  own.onmessage = ({ data }) => {
    if (typeof data === "string") postMessage({ type: "text", run, text: data });
    else if (data.byteLength) {
      postMessage({ type: "chunk", run, at: wall() });
      const samples = new Int16Array(data, 0, Math.floor(data.byteLength / 2));
      if (!silent) player.postMessage({ type: "chunk", run, samples }, [data]);
    }
  };
  own.onclose = ({ code }) => {
    if (!silent) player.postMessage({ type: "end", run }); // what is in the buffer is still to be heard
    postMessage({ type: "closed", run, code, at: wall() });
  };
}
