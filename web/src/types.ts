// What the API sends. Names are those of its documents; what is not used here is left out.

export type Measured = number | "not measured";
export type Truth = "yes" | "no" | "unknown";
export type Evidence = { source: string; age_ms: number };
export type Fact = { is: Truth; detail: string; evidence: Evidence | null };

export type Listener = {
  address: string;
  port: number;
  inode: number;
  held: boolean;
  origin: "adopted" | "swapped" | "held" | "passed" | "given";
  selected: boolean;
  queue: Measured;
  evidence: Evidence;
};

export type Generation = {
  id: number;
  pid: number;
  phase: "spawning" | "starting" | "ready" | "draining" | "stopping" | "exited";
  since_ms: number;
  listeners: Listener[];
  trap: string;
  holding: "adopt" | "swap" | "environment" | "plain" | "unknown";
  connections: Measured;
  last_exit: string | null;
  notes: string[];
};

export type Ledger = {
  from: number | null;
  to: number | null;
  outcome: "switched" | "rolled-back" | "not-ready" | "running";
  reason: string | null;
  queued: Measured;
  drained: Measured;
  cut: Measured;
  idle_closed: Measured;
  lost: Measured;
  gap_ms: Measured;
  listener_gap: boolean;
  accepted: Measured;
  refused: Measured;
  /** It had a share of the connections first. */
  canary?: { permille: number; for_ms: number | null; lasted_ms: number | null };
  notes: string[];
};

export type Service = {
  name: string;
  target: "up" | "down";
  state: string;
  phase: string;
  detail: string;
  restarts: number;
  crashes: number;
  generations: Generation[];
  held: Listener[];
  ledger: Ledger | null;
  facts: Record<"process" | "listening" | "accepting" | "probe" | "looping", Fact>;
  kind: "service" | "task";
  /** It is stayput's own: this dashboard. */
  own: boolean;
  replicas: number;
  uptime_ms: number | null;
  last_exit: { generation: number; ended: string; status: number; why: string | null; at_ms: number | null } | null;
  connections: { new: Measured; old: Measured; queued: Measured };
  memory: Measured;
  cpu_permille: Measured;
  usage: Evidence | null;
  processes: Measured;
  waiting: { address: string; holder: string | null }[];
  after: { service: string; when: string; met: boolean }[];
  health: { passing: boolean | null; failures: number; detail: string; evidence: Evidence | null } | null;
  watch: { directories: number; problem: string | null } | null;
  next_run_ms: number | null;
  next: { what: string; in_ms: number } | null;
  command: string;
  origin: { path: string | null; line: number; column: number } | null;
  /** When this picture of it came, by our clock; not from the API. */
  seen: number;
};

export type Process = {
  pid: number;
  parent: number;
  generation: number;
  main: boolean;
  command: string;
  user: string | null;
  state: string;
  started_ms: number | null;
  threads: number;
  memory: Measured;
  cpu_permille: Measured;
  listeners: { address: string; inode: number }[] | null;
  connections: Measured;
};
export type Processes = { service: string; processes: Process[]; left_out: number; evidence: Evidence };

export type Instance = {
  name: string;
  guard: { pid: number };
  keeper: { pid: number };
  daemon: { pid: number };
  keeper_deaths: number;
  daemon_deaths: number;
  daemon_ms: number;
  mode: string;
  source: { path: string; profile: string | null; only: string[] } | null;
};

export type EventRecord = {
  cursor: string;
  at_ms: number;
  service: string | null;
  kind: string;
  generation: number | null;
  level: "good" | "info" | "trouble";
  text: string;
  data: Record<string, unknown> | null;
};

export type Me = {
  role: "view" | "operate";
  by: "token" | "same-user";
  read_only: boolean;
  instance: string;
  host: string;
  release: string;
  dashboard: string;
  clients: number;
};

export type Operation = {
  id: string;
  action: string;
  service?: string | null;
  address?: string | null;
  state: "running" | "done" | "failed" | "refused" | "unknown";
  message?: string | null;
  hint?: string | null;
  at_ms: number;
};

export type FieldChange = { field: string; from: string | null; to: string | null; restart: boolean; why: string };
export type Plan = {
  path: string | null;
  errors: { message: string; line: number | null; hint: string | null; rendered: string | null }[];
  changes: { service: string; action: "add" | "remove" | "restart" | "live"; why: string; fields: FieldChange[] }[];
  instance: FieldChange[];
};

export type Sample = {
  at_ms: number;
  connections: number | null;
  queued: number | null;
  memory: number | null;
  cpu_permille: number | null;
  restarts: number;
};

export type LogLine = {
  s: string;
  g: number;
  o: "out" | "err";
  t: number;
  n: number;
  l: "error" | "warn" | "info" | "debug" | null;
  c: boolean;
  b: boolean;
  p: string;
  x: [string, string][];
};
