// The overview of an instance that has nothing to look after yet: how it gets its first service.

import { useState } from "preact/hooks";
import { Icon } from "./icons";
import { Choice, whyNot } from "./parts";
import { PlanButton } from "./plan";
import { instance, live, me } from "./state";

const EXAMPLES = {
  command: ["A server", '[service.web]\ncommand = "python3 -m http.server 8000"'],
  port: ["On its port from the start", '[service.web]\ncommand = "node server.js"\nport = 8000\nready = "http:/health"'],
  two: ["One after the other", '[service.db]\ncommand = "postgres -D data"\n\n[service.web]\ncommand = "python3 app.py"\nafter = ["db"]'],
} as const;
type Example = keyof typeof EXAMPLES;

export function First() {
  const [example, setExample] = useState<Example>("command");
  const [copied, setCopied] = useState(false);
  const [, text] = EXAMPLES[example];
  const path = instance.value?.source?.path;
  const copy = () => void navigator.clipboard?.writeText(`${text}\n`).then(() => setCopied(true));
  return (
    <section class="card first" aria-labelledby="first">
      <Icon name="anchor" size={40} />
      <h1 id="first">No service yet</h1>
      <p class="lead">stayput runs, and holds nothing but this page. Three steps to the first port that stays put:</p>
      <ol>
        <li>
          <h2>Write it down</h2>
          <p>
            {path ? (
              <>
                Into <code>{path}</code>:
              </>
            ) : (
              <>
                This instance has no configuration. Put one into <code>stayput.toml</code> and start it with <code>stayput up</code>:
              </>
            )}
          </p>
          <div class="example">
            <Choice label="Example" value={example} options={Object.entries(EXAMPLES).map(([key, [word]]) => [key as Example, word] as const)} on={(key) => (setExample(key), setCopied(false))} />
            <pre tabIndex={0} aria-label="Example of a configuration">{text}</pre>
            {navigator.clipboard && (
              <button type="button" onClick={copy}>
                <Icon name={copied ? "check" : "log"} /> {copied ? "Copied" : "Copy"}
              </button>
            )}
          </div>
        </li>
        <li>
          <h2>Apply it</h2>
          <p>
            What would change is shown first. In a terminal: <code>stayput reload {me.value?.instance}</code>
          </p>
          <PlanButton />
          {live.value === "live" && whyNot() && <p class="source">To do it here, {whyNot()}.</p>}
        </li>
        <li>
          <h2>Watch it here</h2>
          <p>It appears by itself as soon as it is started, with its port, its log and everything that happens to it.</p>
        </li>
      </ol>
      <p class="source">
        All that can stand in the file, for editors too: <code>stayput schema</code>. A Procfile will do as well.
      </p>
    </section>
  );
}
