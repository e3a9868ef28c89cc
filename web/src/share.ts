// One stream for all tabs: browsers open six connections to a host over HTTP/1.1, and the seventh tab would wait for ever.
//
// Who holds the lock leads: it has the stream and passes everything on. When it goes, the kernel of the browser gives the lock to the
// next one, which goes on after the last event that it has seen. Without locks (a page that is not from this machine and not over TLS)
// each tab that is shown has a stream of its own.

import { follow, type Frame, type Refused, type StreamState } from "./net";

type Say = { frame: Frame } | { state: StreamState } | { want: "all" } | { all: Frame[]; state: StreamState };

export function share(
  where: () => string,
  everything: () => Frame[],
  on: (frame: Frame) => void,
  told: (state: StreamState, why?: Refused) => void,
): () => void {
  if (!navigator.locks || !("BroadcastChannel" in self)) {
    let stop = follow(where, on, told);
    document.addEventListener("visibilitychange", () => {
      stop();
      if (!document.hidden) stop = follow(where, on, told);
    });
    return () => stop();
  }
  const channel = new BroadcastChannel("stayput-stream");
  let leads = false;
  let last: StreamState = "lost";
  let stop = () => {};
  const say = (what: Say) => channel.postMessage(what);
  const lead = () => {
    stop();
    stop = follow(
      where,
      (frame) => {
        on(frame);
        say({ frame });
      },
      (state, why) => {
        last = state;
        told(state, why);
        say({ state });
      },
    );
  };
  channel.addEventListener("message", ({ data }: MessageEvent<Say>) => {
    if (leads) {
      if ("want" in data) say({ all: everything(), state: last });
      return;
    }
    if ("all" in data) data.all.forEach(on);
    if ("frame" in data) on(data.frame);
    if ("state" in data) told(data.state);
  });
  say({ want: "all" });
  void navigator.locks.request("stayput-stream", () => {
    leads = true;
    lead();
    // Held as long as this tab is there.
    return new Promise(() => {});
  });
  return () => leads && lead();
}
