// Requests, and streams that come back by themselves.
//
// EventSource is not used: it cannot send a token, does not show a 401, and closes for good on an answer of a wrong kind.

export const base = new URL(".", document.baseURI);
const api = (path: string) => new URL(`api/v1/${path}`, base);

const KEY = "stayput-token";
const siblings = "BroadcastChannel" in self ? new BroadcastChannel("stayput") : null;
let token = sessionStorage.getItem(KEY) ?? "";

/** Takes the token out of the address, before anything else reads it. */
function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given !== null) {
    history.replaceState(history.state, "", location.pathname + location.search);
    setToken(given);
  }
}

export function setToken(value: string) {
  token = /^[A-Za-z0-9]{1,200}$/.test(value) ? value : "";
  if (token) sessionStorage.setItem(KEY, token);
  else sessionStorage.removeItem(KEY);
}
takeToken();

type Said = { want?: "token"; token?: string };
siblings?.addEventListener("message", ({ data }: MessageEvent<Said>) => {
  if (data.want === "token" && token) siblings.postMessage({ token });
});

/** A tab that was opened from another one gets its token from it, if it has none: within a moment, or not at all. */
export function askSiblings(): Promise<boolean> {
  if (token || !siblings) return Promise.resolve(false);
  return new Promise((done) => {
    const answer = ({ data }: MessageEvent<Said>) => {
      if (typeof data.token !== "string") return;
      setToken(data.token);
      end();
    };
    const end = () => {
      siblings.removeEventListener("message", answer);
      done(Boolean(token));
    };
    siblings.addEventListener("message", answer);
    siblings.postMessage({ want: "token" });
    setTimeout(end, 60);
  });
}

export class Refused extends Error {
  constructor(
    readonly status: number,
    readonly kind: string,
    message: string,
    readonly hint: string | null,
  ) {
    super(message);
  }
}

function headers(): Record<string, string> {
  return token ? { "X-Stayput": "1", Authorization: `Bearer ${token}` } : { "X-Stayput": "1" };
}

async function check(response: Response): Promise<Response> {
  if (response.ok) return response;
  const said = await response.json().catch(() => null);
  const error = said?.error ?? {};
  throw new Refused(response.status, error.kind ?? "http", error.message ?? `HTTP ${response.status}`, error.hint ?? null);
}

export async function get<T>(path: string): Promise<T> {
  const response = await fetch(api(path), { headers: headers(), cache: "no-store" });
  return (await check(response)).json();
}

export async function post<T>(path: string, body: unknown = {}): Promise<T> {
  const response = await fetch(api(path), {
    method: "POST",
    headers: { ...headers(), "Content-Type": "application/json", "Idempotency-Key": crypto.getRandomValues(new Uint32Array(4)).join("-") },
    body: JSON.stringify(body),
  });
  return (await check(response)).json();
}

/** Saves what an address gives as a file: a plain link could not send the token. */
export async function save(path: string, name: string) {
  const response = await check(await fetch(api(path), { headers: headers() }));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await response.blob());
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}

export type Frame = { event: string; data: any; id?: string };
export type StreamState = "open" | "lost" | "denied" | "refused";

const WATCHDOG = 25_000;
const FIRST_PAUSE = 100;
const LONGEST_PAUSE = 5_000;

/** Follows a stream until `stop` is called; `where` is asked anew for each try. */
export function follow(where: () => string, on: (frame: Frame) => void, told: (state: StreamState, why?: Refused) => void) {
  let stopped = false;
  let abort = new AbortController();
  let pause = 0;
  let dog = 0;
  const alive = () => {
    clearTimeout(dog);
    dog = setTimeout(() => abort.abort(), WATCHDOG);
  };

  const once = async () => {
    abort = new AbortController();
    alive();
    const response = await check(await fetch(api(where()), { headers: headers(), cache: "no-store", signal: abort.signal }));
    if (!response.headers.get("content-type")?.startsWith("text/event-stream")) throw new Error("not a stream");
    pause = 0;
    told("open");
    const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      alive();
      rest += value;
      for (let end = rest.indexOf("\n\n"); end >= 0; end = rest.indexOf("\n\n")) {
        const frame = parse(rest.slice(0, end));
        rest = rest.slice(end + 2);
        if (frame && !stopped) on(frame);
      }
    }
  };

  const loop = async () => {
    while (!stopped) {
      let denied: Refused | undefined;
      try {
        await once();
      } catch (error) {
        if (error instanceof Refused && error.status < 500) denied = error;
      }
      clearTimeout(dog);
      if (stopped) return;
      told(denied ? (denied.status === 401 ? "denied" : "refused") : "lost", denied);
      if (denied && denied.status !== 429) return;
      // The first try comes at once, for a dashboard that was only restarted; then ever later, and not all pages at the same time.
      pause = pause ? Math.min(pause * 2, LONGEST_PAUSE) : FIRST_PAUSE;
      await new Promise((done) => setTimeout(done, pause * (0.75 + Math.random() / 2)));
    }
  };
  void loop();
  return () => {
    stopped = true;
    clearTimeout(dog);
    abort.abort();
  };
}

function parse(text: string): Frame | null {
  const frame: Partial<Frame> = {};
  for (const line of text.split("\n")) {
    if (line.startsWith("event: ")) frame.event = line.slice(7);
    else if (line.startsWith("id: ")) frame.id = line.slice(4);
    else if (line.startsWith("data: ")) frame.data = JSON.parse(line.slice(6));
  }
  return frame.event ? (frame as Frame) : null;
}
