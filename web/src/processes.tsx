// The processes of a service: its generations, and below each one its tree. Asked for while it is looked at, because the daemon has to look
// at every one of them; no event tells that a process has grown or works harder, so it is asked again and again.

import { useEffect, useState } from "preact/hooks";
import { get, Refused } from "./net";
import { Badge, Empty } from "./parts";
import { live, now, skew } from "./state";
import type { Generation, Process, Processes as Report, Service } from "./types";
import { address, bytes, count, cpu, plural, since, span } from "./words";

const AGAIN = 3_000;
const STATE: Record<string, string> = { R: "runs", S: "sleeps", D: "waits for a device", T: "stopped", t: "traced", Z: "ended, not reaped", I: "idle" };

/** Parents before their children, each with its depth: the way a person draws a tree. */
function tree(all: Process[]): [Process, number][] {
  const below = new Map<number, Process[]>();
  const here = new Set(all.map((one) => one.pid));
  for (const one of all) {
    const parent = here.has(one.parent) ? one.parent : 0;
    below.set(parent, [...(below.get(parent) ?? []), one]);
  }
  const rows: [Process, number][] = [];
  const add = (parent: number, depth: number) => {
    for (const one of below.get(parent) ?? []) {
      rows.push([one, depth]);
      if (one.pid !== parent) add(one.pid, depth + 1);
    }
  };
  add(0, 0);
  return rows;
}

const Unread = () => <span class="none">cannot be read</span>;

function Row({ process, depth }: { process: Process; depth: number }) {
  return (
    <tr>
      <th scope="row" class={depth ? "number child" : "number"} style={{ "--depth": Math.min(depth, 8) }}>
        <span class="branch">{process.pid}</span>
      </th>
      <td data-label="command" class="cmd">
        <code>{process.command}</code>
        <small>
          {process.main ? "main process, " : `child of ${process.parent}, `}
          {STATE[process.state] ?? process.state}
          {process.threads > 1 && `, ${process.threads} threads`}
        </small>
      </td>
      <td data-label="user">{process.user ?? <Unread />}</td>
      <td class="number" data-label="memory">{bytes(process.memory)}</td>
      <td class="number" data-label="cpu">{cpu(process.cpu_permille)}</td>
      <td data-label="sockets">
        {process.listeners === null ? (
          <Unread />
        ) : (
          process.listeners.map((one) => (
            <span class="sock" key={one.inode} title={`LISTEN, inode ${one.inode}`}>
              <code>{one.address}</code>
            </span>
          ))
        )}
        {process.listeners?.length === 0 && <span class="none">listens nowhere</span>}
      </td>
      <td class="number" data-label="connections">{count(process.connections)}</td>
      <td class="number" data-label="up">{process.started_ms === null ? <Unread /> : span(Math.max(1000, now.value + skew.value - process.started_ms))}</td>
    </tr>
  );
}

const HELD: Record<Generation["holding"], string | null> = {
  adopt: "ports held",
  swap: "ports held by sockets of ours",
  environment: "declared ports held",
  plain: null,
  unknown: null,
};
const HEADS = ["Process", "Command", "User", "Memory", "CPU", "Listens on", "Connections", "Up"];

function Tree({ service, generation, all }: { service: Service; generation: Generation; all: Process[] | null }) {
  const held = generation.trap === "active" || generation.holding === "environment" ? HELD[generation.holding] : null;
  const title = `g-${generation.id}`;
  return (
    <section class="card" aria-labelledby={title}>
      <div class="bar">
        <h2 id={title}>Generation {generation.id}</h2>
        <Badge tone={generation.phase === "ready" ? "good" : "busy"}>{generation.phase}</Badge>
        <small class="source">
          for {span(since(service, generation.since_ms))}, {plural(typeof generation.connections === "number" ? generation.connections : 0, "connection").replace(/^0 .*/, generation.connections === 0 ? "no connection" : "connections not measured")}
        </small>
        {held ? <Badge tone="good">{held}</Badge> : <Badge tone="warn">ports not held: {generation.trap.replace("unavailable: ", "")}</Badge>}
      </div>
      {generation.last_exit && <p class="source">Its main process {generation.last_exit}.</p>}
      {generation.listeners.length > 0 && (
        <p class="listens">
          {generation.listeners.map((one) => (
            <span class="sock" key={one.inode}>
              <code>{address(one)}</code> <small>inode {one.inode}, {one.origin}</small>
            </span>
          ))}
        </p>
      )}
      {!all ? (
        <div class="skeleton low" aria-busy="true" />
      ) : all.length ? (
        <table class="grid simple processes">
          <thead>
            <tr>
              {HEADS.map((head) => (
                <th scope="col" key={head}>
                  {head}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {tree(all).map(([process, depth]) => (
              <Row key={process.pid} process={process} depth={depth} />
            ))}
          </tbody>
        </table>
      ) : (
        <p class="none">no process of it is left</p>
      )}
    </section>
  );
}

export function Processes({ service }: { service: Service }) {
  const [report, setReport] = useState<Report | null>(null);
  const [failed, setFailed] = useState<string | null>(null);
  const known = service.generations.map((one) => one.id).join();
  useEffect(() => {
    let gone = false;
    const load = () => {
      if (document.hidden || live.value !== "live") return;
      get<Report>(`services/${encodeURIComponent(service.name)}/processes`).then(
        (told) => {
          if (gone) return;
          setReport(told);
          setFailed(null);
        },
        (error: Refused) => gone || setFailed(error.message),
      );
    };
    load();
    const timer = setInterval(load, AGAIN);
    return () => {
      gone = true;
      clearInterval(timer);
    };
  }, [service.name, known]);
  if (!service.generations.length) return <Empty icon="idle" title="No process of it lives">{service.last_exit && <p>The last one {service.last_exit.ended}.</p>}</Empty>;
  const of = (id: number) => report && report.processes.filter((one) => one.generation === id);
  return (
    <>
      {failed && !report && <Empty icon="bad" title={failed} />}
      {(report || !failed) && service.generations.map((one) => <Tree key={one.id} service={service} generation={one} all={of(one.id)} />)}
      {report && (
        <p class="source">
          {plural(report.processes.length + report.left_out, "process").replace("processs", "processes")} in all
          {report.left_out > 0 && `, ${report.left_out} of them not shown`}; {report.evidence.source}, looked at every {AGAIN / 1000} s. Memory is what is resident: pages that are shared count for each.
        </p>
      )}
    </>
  );
}
