// One stream's frames to the service, over as many connections as it takes; docs/protocol.md says how.
//
// Frames are kept until the service says that they are durable, and sent again after a break from where it says. While there is no
// connection a minute of them is kept; on a connection that cannot carry them, those that waited too long are dropped, and both are counted.
//
//   "state"    .state: connecting, live, waiting (for .again, a moment), left, ended, refused (.problem says why)
//   "message"  (detail) segment, event, dropped and rewound, for a Record

import { Problem, get, key, request, stream } from "./api.js";

const KEPT = 60; // seconds of frames
const LATE = 8; // seconds that a frame may wait on a slow connection
const SILENT = 10_000; // ms without a word, while frames are on the way, after which a connection is given up
const PAUSES = [250, 5000]; // ms: shortest and longest before another attempt
const AGAIN = new Set([1001, 1005, 1006, 1011, 1012, 1013, 4408]);

export class Feed extends EventTarget {
  state = "connecting";
  problem = null;
  again = null;
  ready = null;
  sent = 0;
  breaks = 0;
  quality = 0.85;
  #frames = []; // { number, time, data }, ascending; all that may have to be sent again
  #next = 0; // of these, the first that is to be sent
  #number = null; // of the next frame
  #offset = null; // from this device's clock to capture times
  #credit = 0;
  #unheard = 0; // frames since the last final segment
  #attempt = 0;
  #heard = 0;
  #since = 0;
  #backlogged = 0;
  #rewound = false;
  #gone = 0; // frames that were dropped here: the service tells of them, too, once it sees what comes after
  #gaps = 0; // told as left out
  #lost = 0; // told as dropped for another reason
  #takeover;

  constructor(id, { client, options = {}, takeover = false }) {
    super();
    Object.assign(this, { id, client, options });
    this.#takeover = takeover;
    this.watch = setInterval(() => this.#look(), 1000);
    this.online = () => this.state === "waiting" && this.#connect();
    window.addEventListener("online", this.online);
    this.#connect();
  }

  get dropped() {
    return this.#lost + Math.max(this.#gone, this.#gaps);
  }

  get waiting() {
    return this.#frames.length - this.#next;
  }

  // A picture taken now. Nothing is kept before the service has said from where to go on.
  offer(data) {
    if (this.#number === null || ["left", "ended", "refused"].includes(this.state)) return;
    const last = this.#frames.at(-1)?.time ?? -Infinity;
    const time = Date.now() / 1000 + this.#offset;
    if (time <= last) return;
    this.#frames.push({ number: this.#number++, time, data });
    const most = KEPT * this.ready.rate;
    if (this.#frames.length > most) this.#drop(this.#frames.length - most);
    this.#flush();
  }

  // The oldest, whether sent or not.
  #drop(many) {
    this.#gone += many;
    this.#frames.splice(0, many);
    this.#next = Math.max(0, this.#next - many);
  }

  #connect() {
    clearTimeout(this.timer);
    this.#set("connecting");
    const parameters = new URLSearchParams({ client: this.client, memory: "true", ...this.options });
    if (this.#takeover) parameters.set("takeover", "true");
    const base = location.origin.replace(/^http/, "ws");
    let socket;
    try {
      socket = new WebSocket(`${base}${stream(this.id)}/frames?${parameters}`, ["crt.v1", ...(key.get() ? [`crt.key.${key.get()}`] : [])]);
    } catch {
      this.#refuse(new Problem({ code: "key_unfit", detail: "The key has characters that a browser cannot send." }));
      return;
    }
    let goodbye = null;
    let error = null;
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    this.#heard = performance.now();
    socket.onmessage = ({ data }) => {
      if (socket !== this.socket) return;
      this.#heard = performance.now();
      const message = JSON.parse(data);
      if (message.type === "goodbye") goodbye = message;
      else if (message.type === "error" && message.fatal) error = message;
      else this.#take(message);
    };
    socket.onclose = ({ code, reason }) => {
      if (socket !== this.socket) return;
      this.socket = null;
      this.#ended(code, reason, error, goodbye);
    };
  }

  #take(message) {
    switch (message.type) {
      case "ready":
        this.#begin(message);
        break;
      case "credit":
        this.#credit += message.frames;
        this.#flush();
        break;
      case "ack":
        this.#release(message.frame);
        break;
      case "dropped":
        if (message.reason === "gap") this.#gaps += message.frames;
        else this.#lost += message.frames;
        this.#tell(message);
        break;
      default:
        if (message.type === "segment" && message.final) [this.#unheard, this.#attempt] = [0, 0];
        this.#tell(message);
        this.#flush();
    }
  }

  #begin(ready) {
    const { resume_from: from, position } = ready;
    if (this.#number === null) this.#offset = offset(position, ready.rate);
    this.#release(from);
    // Of a stream that is new here, or that went back, what is kept here follows what the service knows.
    if (this.#number === null || this.#rewound || from > this.#number) {
      this.#frames.forEach((frame, i) => (frame.number = from + i));
      this.#number = from + this.#frames.length;
    }
    if (this.#rewound) this.#tell({ type: "rewound", segment: ready.segment });
    [this.ready, this.#credit, this.#next, this.#unheard, this.#rewound, this.#takeover] = [ready, ready.credit, 0, 0, false, false];
    this.#since = performance.now();
    this.#backlogged = 0;
    this.#set("live");
    this.#flush();
  }

  // Frames before this number are durable.
  #release(number) {
    const durable = this.#frames.findIndex((frame) => frame.number >= number);
    const many = durable < 0 ? this.#frames.length : durable;
    this.#frames.splice(0, many);
    this.#next = Math.max(0, this.#next - many);
  }

  #flush() {
    const { socket, ready } = this;
    if (this.state !== "live" || socket?.readyState !== WebSocket.OPEN) return;
    const most = 3 * ready.segment_frames;
    while (this.#next < this.#frames.length && this.#credit > 0 && this.#unheard < most && socket.bufferedAmount < 1 << 18) {
      const { number, time, data } = this.#frames[this.#next++];
      const message = new Uint8Array(16 + data.length);
      const view = new DataView(message.buffer);
      view.setBigUint64(0, BigInt(number));
      view.setFloat64(8, time);
      message.set(data, 16);
      socket.send(message);
      this.sent++;
      this.#credit--;
      this.#unheard++;
    }
  }

  // Once a second: does the connection live, and does it carry what is taken?
  #look() {
    if (this.state !== "live") return;
    this.#flush();
    if (performance.now() - this.#heard > SILENT && (this.#unheard || this.socket?.bufferedAmount)) {
      const { socket } = this;
      this.socket = null;
      socket?.close();
      this.#ended(1006, "", null, null);
      return;
    }
    const late = this.waiting > LATE * this.ready.rate;
    // After a break there is much to send, which takes its time.
    this.#backlogged = late && performance.now() - this.#since > 20_000 ? this.#backlogged + 1 : 0;
    if (this.#backlogged > 3) {
      const waiting = this.#frames.splice(this.#next);
      const fresh = waiting.slice(-Math.ceil(this.ready.rate));
      this.#gone += waiting.length - fresh.length;
      this.#frames.push(...fresh);
      this.#backlogged = 0;
      this.quality = Math.max(0.4, this.quality - 0.15);
    }
    this.dispatchEvent(new Event("state"));
  }

  async #ended(code, reason, error, goodbye) {
    if (["left", "ended"].includes(this.state)) return;
    if (goodbye?.reason === "end") {
      this.#stop("ended");
      return;
    }
    if (goodbye?.reason === "rewound") {
      [this.#rewound, this.#frames, this.#next] = [true, [], 0];
      this.breaks++;
      this.#connect();
      return;
    }
    if (this.state === "live") this.breaks++;
    if (goodbye?.reconnect || (AGAIN.has(code) && goodbye?.reconnect !== false)) {
      // A browser does not say why a connection was refused; an ordinary request does.
      const why = error ? new Problem({ code: error.code, detail: error.detail }) : await this.#why();
      if (["left", "ended"].includes(this.state)) return;
      if (why && [401, 403].includes(why.status)) this.#refuse(why);
      else this.#wait(why);
      return;
    }
    this.#refuse(new Problem({ code: error?.code ?? reason, detail: error?.detail ?? `The service ended the connection (${code}).` }));
  }

  async #why() {
    try {
      await get("/v1/streams?limit=1");
      return null;
    } catch (error) {
      return error;
    }
  }

  #wait(why) {
    const [shortest, longest] = PAUSES;
    const pause = Math.min(longest, shortest * 2 ** this.#attempt++) * (0.5 + Math.random() / 2);
    this.problem = why;
    this.again = Date.now() + pause;
    this.#set("waiting");
    this.timer = setTimeout(() => this.#connect(), pause);
  }

  #refuse(problem) {
    this.problem = problem;
    this.#stop("refused");
  }

  // The stream stays, and may be gone on with from anywhere.
  leave() {
    this.#stop("left");
  }

  // Nothing more comes: the last labels are made, and the event that goes on ends.
  end() {
    if (this.state === "live") this.socket.send('{"type": "end"}');
    else this.leave();
  }

  #stop(state) {
    clearTimeout(this.timer);
    clearInterval(this.watch);
    window.removeEventListener("online", this.online);
    const { socket } = this;
    this.socket = null;
    this.#set(state);
    socket?.close(1000);
  }

  #set(state) {
    if (state === "live") this.problem = null;
    this.state = state;
    this.dispatchEvent(new Event("state"));
  }

  #tell(message) {
    this.dispatchEvent(new CustomEvent("message", { detail: message }));
  }
}

// Capture times are seconds since 1970, as the command line's camera has them. A stream goes on after its last one: of a clock that is
// behind, or of a stream that was a file's and counts from 0.
function offset(position, rate) {
  const now = Date.now() / 1000;
  if (position === null) return 0;
  const after = position + 1 / rate;
  return position > 1e9 ? Math.max(0, after - now) : after - now;
}

// Who writes, to the service: the same browser may come back at once.
export function client() {
  const made = localStorage.getItem("crt-client") ?? crypto.getRandomValues(new Uint32Array(2)).join("-");
  localStorage.setItem("crt-client", made);
  return made;
}

export const remove = (id) => request(stream(id), { method: "DELETE" });
