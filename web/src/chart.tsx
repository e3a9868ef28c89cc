// Charts, drawn by hand. A library for them would be half of all the script of this page; these are lines in a box.

import { signal } from "@preact/signals";
import { useEffect, useState } from "preact/hooks";
import { history } from "./history";
import { Choice } from "./parts";
import { live } from "./state";
import type { Sample } from "./types";
import { bytes, clock } from "./words";

type Kind = { key: string; title: string; whole?: boolean; series: [label: string, colour: string, of: (sample: Sample) => number | null][]; say: (value: number) => string };
const KINDS: Kind[] = [
  {
    key: "connections",
    title: "Connections",
    whole: true,
    series: [
      ["open", "--line-1", (sample) => sample.connections],
      ["waiting", "--line-2", (sample) => sample.queued],
    ],
    say: (value) => value.toLocaleString("en"),
  },
  { key: "memory", title: "Memory", series: [["memory", "--line-1", (sample) => sample.memory]], say: bytes },
  { key: "cpu", title: "CPU", series: [["CPU", "--line-1", (sample) => (sample.cpu_permille === null ? null : sample.cpu_permille / 10)]], say: (value) => `${value.toFixed(1)} %` },
  { key: "restarts", title: "Restarts so far", whole: true, series: [["restarts", "--line-1", (sample) => sample.restarts]], say: (value) => String(value) },
];

const AGAIN = 15_000;
const WIDTH = 600;
const HEIGHT = 130;
/** A round number of at least this, not much above it; of things that are counted an even one, so that its half is one, too. */
function roof(value: number, whole = false): number {
  const least = Math.max(value, whole ? 2 : 1e-3);
  const power = 10 ** Math.floor(Math.log10(least));
  const steps = [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 12, 15, 20].map((times) => Math.round(times * power * 1e6) / 1e6);
  return steps.find((step) => step >= least && !(whole && step % 2)) ?? least;
}

/** Where nobody looked, or could not: from the last sample that is known to the next. */
function holes(kind: Kind, samples: Sample[], step: number): [Sample, Sample][] {
  const known = samples.filter((sample) => kind.series.every(([, , of]) => of(sample) !== null));
  const between = known.slice(1).flatMap((sample, index): [Sample, Sample][] => (sample.at_ms - known[index]!.at_ms > step * 2.5 ? [[known[index]!, sample]] : []));
  const [first, last] = [samples[0]!, samples[samples.length - 1]!];
  if (!known.length) return between;
  if (known[0] !== first) between.unshift([first, known[0]!]);
  if (known[known.length - 1] !== last) between.push([known[known.length - 1]!, last]);
  return between;
}

/** What the pointer is at, for all plots at once: a share of the width. */
const pointed = signal<number | null>(null);

/** A chart as a drawing: four hundred points are no work for the browser, and colours follow the page by themselves. */
function Plot({ kind, samples, step }: { kind: Kind; samples: Sample[]; step: number }) {
  const first = samples[0]!.at_ms;
  const length = Math.max(1, samples[samples.length - 1]!.at_ms - first);
  const known = samples.flatMap((sample) => kind.series.map(([, , of]) => of(sample)).filter((value) => value !== null));
  const most = Math.max(...known, 0);
  const top = roof(most < 20 && kind.whole ? most : most * 1.04, kind.whole);
  const x = (sample: Sample) => ((sample.at_ms - first) / length) * WIDTH;
  const y = (value: number) => HEIGHT - (value / top) * HEIGHT;
  const empty = holes(kind, samples, step);
  const line = (of: (sample: Sample) => number | null) => {
    let path = "";
    let area = "";
    let from = "";
    let before: Sample | null = null;
    for (const sample of samples) {
      const value = of(sample);
      // A time without samples is a gap, not a line across it.
      const broken = value === null || (before && sample.at_ms - before.at_ms > step * 2.5);
      if (broken && before) {
        area += `L${x(before).toFixed(1)} ${HEIGHT}L${from} ${HEIGHT}Z`;
        before = null;
      }
      if (value === null) continue;
      const point = `${x(sample).toFixed(1)} ${y(value).toFixed(1)}`;
      if (!before) from = x(sample).toFixed(1);
      path += `${before ? "L" : "M"}${point}`;
      area += `${before ? "L" : `M${from} ${HEIGHT}L`}${point}`;
      before = sample;
    }
    if (before) area += `L${x(before).toFixed(1)} ${HEIGHT}L${from} ${HEIGHT}Z`;
    return [path, area] as const;
  };
  const at = pointed.value === null ? samples.length - 1 : samples.findIndex((sample) => sample.at_ms >= first + pointed.value! * length);
  const sample = samples[at < 0 ? samples.length - 1 : at]!;
  const times = [0, 0.25, 0.5, 0.75, 1];
  return (
    <figure class="plot">
      <figcaption>
        {kind.title}
        <span>
          {pointed.value !== null && <small>{clock(sample.at_ms)}</small>}
          {kind.series.map(([label, , of], index) => {
            const value = of(sample);
            return <b key={label} class={`line-${index + 1}`}>{`${kind.series.length > 1 ? `${label} ` : ""}${value === null ? "not measured" : kind.say(value)}`}</b>;
          })}
        </span>
      </figcaption>
      <div
        class="drawing"
        aria-hidden="true"
        onPointerMove={(event) => {
          const box = event.currentTarget.getBoundingClientRect();
          pointed.value = Math.max(0, Math.min(1, (event.clientX - box.left) / box.width));
        }}
        onPointerLeave={() => (pointed.value = null)}
      >
        <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none">
          {[0, 0.5, 1].map((share) => (
            <line key={share} class="tick" x1={0} x2={WIDTH} y1={share * HEIGHT} y2={share * HEIGHT} />
          ))}
          {empty.map(([begin, end]) => (
            <rect key={begin.at_ms} class="hole" x={x(begin)} width={Math.max(1, x(end) - x(begin))} y={0} height={HEIGHT} />
          ))}
          {kind.series.map(([label, , of], index) => {
            const [path, area] = line(of);
            return (
              <g key={label} class={`line-${index + 1}`}>
                <path class="area" d={area} />
                <path d={path} />
              </g>
            );
          })}
          {pointed.value !== null && <line class="at" x1={x(sample)} x2={x(sample)} y1={0} y2={HEIGHT} />}
        </svg>
        {known.length > 0 ? (
          <>
            <span class="roof">{kind.say(top)}</span>
            <span class="half">{kind.say(top / 2)}</span>
          </>
        ) : (
          <span class="blank">not measured in this time</span>
        )}
      </div>
      <div class="times" aria-hidden="true">
        {times.map((share) => (
          <span key={share}>{clock(first + share * length).slice(0, 5)}</span>
        ))}
      </div>
    </figure>
  );
}

/** The same as numbers, for who cannot see the lines: a few of them are enough. */
function Twin({ samples }: { samples: Sample[] }) {
  const step = Math.max(1, Math.floor(samples.length / 12));
  return (
    <details>
      <summary>As a table</summary>
      <table class="twin" aria-labelledby="charts">
        <thead>
          <tr>
            <th scope="col">Time</th>
            {KINDS.flatMap((kind) => kind.series.map(([label]) => <th scope="col" key={label}>{label}</th>))}
          </tr>
        </thead>
        <tbody>
          {samples.filter((_, index) => (samples.length - 1 - index) % step === 0).reverse().map((sample) => (
            <tr key={sample.at_ms}>
              <td class="number">{clock(sample.at_ms)}</td>
              {KINDS.flatMap((kind) =>
                kind.series.map(([label, , of]) => {
                  const value = of(sample);
                  return <td class="number" key={label}>{value === null ? "not measured" : kind.say(value)}</td>;
                }),
              )}
            </tr>
          ))}
        </tbody>
      </table>
    </details>
  );
}

export function Charts({ name }: { name: string }) {
  const [range, setRange] = useState<"hour" | "day">("hour");
  const [data, setData] = useState<{ step_ms: number; samples: Sample[] } | null>(null);
  useEffect(() => {
    let gone = false;
    const load = () => {
      if (document.hidden || live.value !== "live") return;
      history(name, range).then((all) => gone || setData(all), () => gone || setData((old) => old ?? { step_ms: 1, samples: [] }));
    };
    load();
    const timer = setInterval(load, AGAIN);
    return () => {
      gone = true;
      clearInterval(timer);
    };
  }, [name, range]);
  return (
    <section class="card" aria-labelledby="charts">
      <div class="bar">
        <h2 id="charts">How it went</h2>
        <Choice label="Range" value={range} options={[["hour", "Last hour"], ["day", "Last day"]]} on={setRange} />
      </div>
      {data && data.samples.length > 1 ? (
        <>
          <div class="plots">
            {KINDS.map((kind) => (
              <Plot key={kind.key} kind={kind} samples={data.samples} step={data.step_ms} />
            ))}
          </div>
          {KINDS.some((kind) => holes(kind, data.samples, data.step_ms).length) && (
            <p class="legend plain">
              <span>
                <i class="hole" /> not measured
              </span>
            </p>
          )}
          <Twin samples={data.samples} />
        </>
      ) : (
        <p class="none blank" aria-busy={!data}>{data ? "Nothing is measured yet: the first lines come within a minute." : "Loading"}</p>
      )}
    </section>
  );
}
