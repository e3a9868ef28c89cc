// Reload: what would change is shown first, and applied only then.

import { signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { Icon, type IconName } from "./icons";
import { get, type Refused } from "./net";
import { Badge, whyNot } from "./parts";
import { act, mayAct, note } from "./state";
import type { FieldChange, Plan } from "./types";
import { plural, type Tone } from "./words";

const shown = signal<Plan | null>(null);

export async function showPlan() {
  try {
    shown.value = await get<Plan>("plan");
  } catch (error) {
    const refused = error as Refused;
    note("failed", refused.message, refused.hint);
  }
}

export const PlanButton = () => (
  <button type="button" onClick={() => void showPlan()}>
    <Icon name="list" /> Reload…
  </button>
);

const ACTION: Record<Plan["changes"][number]["action"], [string, IconName, Tone]> = {
  add: ["new", "play", "good"],
  remove: ["removed", "stop", "bad"],
  restart: ["restarted", "restart", "busy"],
  live: ["changed live", "check", "idle"],
};

export const Fields = ({ fields }: { fields: FieldChange[] }) => (
  <dl class="changes">
    {fields.map((one) => (
      <div key={one.field}>
        <dt>{one.field}</dt>
        <dd>
          {one.from === null && one.to === null ? (
            "changed (values of the environment are not shown)"
          ) : (
            <>
              <del>{one.from ?? "not set"}</del> → <ins>{one.to ?? "not set"}</ins>
            </>
          )}
          <small>{one.why}</small>
        </dd>
      </div>
    ))}
  </dl>
);

export function PlanDialog() {
  const dialog = useRef<HTMLDialogElement>(null);
  const plan = shown.value;
  useEffect(() => {
    if (plan) dialog.current?.showModal();
    else dialog.current?.close();
  }, [plan]);
  const changes = plan ? plan.changes.length + plan.instance.length : 0;
  return (
    <dialog ref={dialog} class="plan" onClose={() => (shown.value = null)} aria-labelledby="plan">
      {plan && (
        <form method="dialog">
          <h2 id="plan">{plan.errors.length ? "The configuration cannot be applied" : changes ? "What a reload would change" : "Nothing would change"}</h2>
          <p class="source">{plan.path ?? "this instance was started without a configuration"}</p>
          {plan.errors.map((error, index) => (
            <div class="problem" key={index}>
              {error.rendered ? <pre>{error.rendered}</pre> : <p>{error.line !== null && `line ${error.line}: `}{error.message}</p>}
              {error.hint && <p class="source">{error.hint}</p>}
            </div>
          ))}
          {plan.instance.length > 0 && <Fields fields={plan.instance} />}
          <ul class="planned">
            {plan.changes.map((change) => {
              const [word, icon, tone] = ACTION[change.action];
              return (
                <li key={change.service}>
                  <p>
                    <Icon name={icon} /> <b>{change.service}</b> <Badge tone={tone}>{word}</Badge> <span class="why">{change.why}</span>
                  </p>
                  {change.fields.length > 0 && <Fields fields={change.fields} />}
                </li>
              );
            })}
          </ul>
          <p class="row end">
            <button type="submit" class="quiet" autofocus>
              Close
            </button>
            {!plan.errors.length && changes > 0 && (
              <button
                type="button"
                class="primary"
                disabled={!mayAct.value}
                title={whyNot()}
                onClick={() => {
                  shown.value = null;
                  void act("reload");
                }}
              >
                Apply {plural(changes, "change")}
              </button>
            )}
          </p>
        </form>
      )}
    </dialog>
  );
}
