// The service's API: requests with the key if there is one, and errors as Problem, whatever went wrong.

const KEY = "crt-key";

export class Problem extends Error {
  constructor({ code, detail, status = 0, retryAfter = null }) {
    super(detail);
    Object.assign(this, { code, detail, status, retryAfter });
  }

  static async of(response) {
    const body = await response.json().catch(() => ({}));
    return Problem.from(response.status, body, response.headers.get("Retry-After"));
  }

  static from(status, body, retryAfter = null) {
    if (status === 401) window.dispatchEvent(new Event("crt-key-wanted"));
    const detail = body.detail ?? `The service answered ${status}.`;
    return new Problem({ code: body.code ?? "answer_unknown", detail, status, retryAfter: Number(retryAfter) || null });
  }

  static unreachable() {
    return new Problem({ code: "unreachable", detail: "The service does not answer." });
  }
}

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? localStorage.getItem(KEY) ?? "",
  set(value, { keep }) {
    sessionStorage.removeItem(KEY);
    localStorage.removeItem(KEY);
    if (value) (keep ? localStorage : sessionStorage).setItem(KEY, value);
  },
  headers: () => (key.get() ? { Authorization: `Bearer ${key.get()}` } : {}),
};

export async function request(path, { method = "GET", body, headers = {}, signal } = {}) {
  const json = body !== undefined;
  let response;
  try {
    response = await fetch(path, {
      method, signal, body: json ? JSON.stringify(body) : undefined, cache: "no-store",
      headers: { ...key.headers(), ...(json ? { "Content-Type": "application/json" } : {}), ...headers },
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw Problem.unreachable();
  }
  if (!response.ok) throw await Problem.of(response);
  return response;
}

export async function get(path, options) {
  return (await request(path, options)).json();
}

export async function post(path, body, options) {
  return (await request(path, { method: "POST", body, ...options })).json();
}

export const stream = (id) => `/v1/streams/${encodeURIComponent(id)}`;

// Server-sent events by fetch, since an EventSource can send no key.
export async function* events(path, { signal, after } = {}) {
  const headers = after === undefined ? {} : { "Last-Event-ID": String(after) };
  const response = await request(path, { signal, headers: { Accept: "text/event-stream", ...headers } });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        const data = part.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
        if (data) yield JSON.parse(data);
      }
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw Problem.unreachable();
  } finally {
    reader.cancel().catch(() => {});
  }
}

// Labels a video: an upload that shows how far it is, then lines as they are made. Resolves to the result.
export function label(file, { onUpload, onSegment, signal }) {
  return new Promise((resolve, reject) => {
    const sending = new XMLHttpRequest();
    let read = 0;
    let result = null;
    let problem = null;
    const lines = () => {
      const text = sending.responseText;
      for (let end = text.indexOf("\n", read); end >= 0; end = text.indexOf("\n", read)) {
        const message = JSON.parse(text.slice(read, end));
        read = end + 1;
        if (message.type === "segment") onSegment(message);
        else if (message.type === "result") result = message;
        else problem = Problem.from(message.problem.status, message.problem);
      }
    };
    sending.open("POST", "/v1/clips?memory=true&top_k=5");
    sending.setRequestHeader("Accept", "application/x-ndjson, application/problem+json;q=0.5");
    sending.setRequestHeader("Content-Type", file.type.startsWith("video/") ? file.type : "application/octet-stream");
    for (const [name, value] of Object.entries(key.headers())) sending.setRequestHeader(name, value);
    sending.upload.addEventListener("progress", (event) => onUpload(event.loaded, event.total));
    sending.upload.addEventListener("load", () => onUpload(file.size, file.size));
    sending.addEventListener("progress", () => sending.status === 200 && lines());
    sending.addEventListener("load", () => {
      if (sending.status !== 200) {
        let body = {};
        try {
          body = JSON.parse(sending.responseText);
        } catch {
          // not from the service itself, such as a proxy's page
        }
        reject(Problem.from(sending.status, body, sending.getResponseHeader("Retry-After")));
        return;
      }
      lines();
      if (result) resolve(result);
      else reject(problem ?? Problem.unreachable());
    });
    sending.addEventListener("error", () => reject(Problem.unreachable()));
    sending.addEventListener("abort", () => reject(new DOMException("stopped", "AbortError")));
    signal?.addEventListener("abort", () => sending.abort());
    sending.send(file);
  });
}
