import { Icon } from "./icons";
import { ask, Badge, Empty, Source, whyNot } from "./parts";
import { route, setQuery, to } from "./route";
import { act, loaded, mayAct, services } from "./state";
import type { Listener, Measured, Service } from "./types";
import { address, count, plural, type Tone } from "./words";

type PortRow = { key: string; address: string; port: number; service: Service; listener: Listener | null; generation: number | null; tone: Tone; words: string; holder: string | null };

function rows(): PortRow[] {
  const all: PortRow[] = [];
  const queue = (value: Measured) => (value === 0 ? "" : ` (${count(value)} waiting)`);
  for (const service of services.value) {
    const add = (listener: Listener, generation: number | null, tone: Tone, words: string) =>
      all.push({ key: `${service.name} ${listener.inode} ${listener.address} ${generation}`, address: address(listener), port: listener.port, service, listener, generation, tone, words, holder: null });
    for (const held of service.held) add(held, null, service.target === "up" ? "bad" : "warn", `held, nobody accepts${queue(held.queue)}`);
    for (const one of service.generations) {
      for (const listener of one.listeners) {
        if (!listener.held) add(listener, one.id, "warn", `served by generation ${one.id}, not held`);
        else if (listener.selected) add(listener, one.id, "good", `held, served by generation ${one.id}${queue(listener.queue)}`);
        else add(listener, one.id, "busy", `held, generation ${one.id} gets no new connections${queue(listener.queue)}`);
      }
    }
    for (const waiting of service.waiting) {
      all.push({ key: `${service.name} ${waiting.address}`, address: waiting.address, port: Number(waiting.address.split(":").pop()) || 0, service, listener: null, generation: null, tone: "bad", words: "taken by somebody else", holder: waiting.holder ?? "nobody can be seen" });
    }
  }
  return all.sort((one, other) => one.port - other.port || (one.address < other.address ? -1 : 1));
}

const ORIGIN: Record<Listener["origin"], string> = {
  adopted: "the server's own socket, and a duplicate here",
  swapped: "a held socket, put in the place of the server's own",
  held: "held here, no generation has it yet",
  passed: "held here, and given to the generation when it was started",
  given: "a socket of ours in the place of the server's own, which may not be looked into",
};

function release(row: PortRow) {
  ask({
    title: `Let go of ${row.address}?`,
    text: (
      <p>
        {row.listener && row.listener.queue !== 0 ? `${plural(typeof row.listener.queue === "number" ? row.listener.queue : 0, "connection")} that wait there will be refused. ` : ""}
        Whoever comes first can bind it, and {row.service.name} cannot start on it while somebody else has it.
      </p>
    ),
    word: "Let go",
    danger: true,
    yes: () => void act("ports/release", { address: row.address, service: row.service.name }),
  });
}

/** A port that nothing declares can be held for a service by hand. */
function Hold() {
  const hold = (event: SubmitEvent) => {
    event.preventDefault();
    const form = new FormData(event.currentTarget as HTMLFormElement);
    const [service, address] = [String(form.get("service")), String(form.get("address")).trim()];
    ask({
      title: `Hold ${address} for ${service}?`,
      text: <p>Connections to it wait until {service} listens there; no other program can bind it until it is let go or {service} starts the next time.</p>,
      word: "Hold",
      danger: false,
      yes: () => void act("ports/hold", { service, address }),
    });
  };
  return (
    <form class="hold" onSubmit={hold}>
      <label>
        Hold for
        <select name="service">
          {services.value.map((service) => (
            <option key={service.name}>{service.name}</option>
          ))}
        </select>
      </label>
      <label>
        Port, or address:port
        <input name="address" required pattern="[\[\]0-9a-fA-F.:]+" autocomplete="off" />
      </label>
      <button type="submit" disabled={!mayAct.value} title={whyNot()}>
        <Icon name="anchor" /> Hold…
      </button>
    </form>
  );
}

export function Ports() {
  const text = (route.value.query.get("q") ?? "").toLowerCase();
  const all = rows();
  const shown = all.filter((row) => !text || `${row.address} ${row.service.name} ${row.words} ${row.holder ?? ""}`.toLowerCase().includes(text));
  return (
    <section class="card" aria-labelledby="ports">
      <div class="bar">
        <h1 id="ports">Ports</h1>
        <small class="source">{plural(all.length, "listener")} of {plural(services.value.length, "service")}; of other ports: stayput ports</small>
        <label class="search">
          <Icon name="search" />
          <span class="hidden">Find a port</span>
          <input type="search" data-search placeholder="Port, address, service…" value={text} onInput={(event) => setQuery("q", event.currentTarget.value)} />
        </label>
      </div>
      {shown.length > 0 && (
        <table class="grid simple">
          <thead>
            <tr>
              {["Address", "Service", "State", "Queue", "Evidence", "Action"].map((head) => (
                <th scope="col" key={head}>
                  {head === "Action" ? <span class="hidden">{head}</span> : head}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {shown.slice(0, 500).map((row) => (
              <tr key={row.key} class={row.tone}>
                <th scope="row">
                  <code>{row.address}</code>
                </th>
                <td data-label="service">
                  <a href={to.service(row.service.name)}>{row.service.name}</a>
                </td>
                <td data-label="state">
                  <Badge tone={row.tone}>{row.words}</Badge>
                  {row.holder && <small>{row.holder}</small>}
                </td>
                <td class="number" data-label="queue">{row.listener ? count(row.listener.queue) : <span class="none">not ours</span>}</td>
                <td data-label="evidence">
                  {row.listener ? (
                    <>
                      <small>LISTEN, inode {row.listener.inode}: {ORIGIN[row.listener.origin]}</small>
                      <Source evidence={row.listener.evidence} />
                    </>
                  ) : (
                    <small>it is waited for, and bound as soon as it is free</small>
                  )}
                </td>
                <td>
                  {row.generation === null && row.listener && (
                    <button type="button" disabled={!mayAct.value} title={whyNot()} onClick={() => release(row)}>
                      <Icon name="unplug" /> Let go…
                    </button>
                  )}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      {shown.length > 500 && <p class="none">{shown.length - 500} more; a filter shows them</p>}
      {loaded.value && services.value.length > 0 && services.value.length <= 200 && <Hold />}
      {loaded.value && !shown.length && <Empty icon="cable" title={text ? "No port fits" : "No port is held"} />}
    </section>
  );
}
