// Builds the page into crates/dashboard/assets, with the table by which it is embedded, and a manifest of what it was made from and with.
// `--check` builds it beside and compares: the committed files are what the sources make, byte for byte.

import { build } from "esbuild";
import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { brotliCompressSync, brotliDecompressSync, constants, gzipSync } from "node:zlib";

const here = dirname(fileURLToPath(import.meta.url));
const crate = join(here, "../crates/dashboard");
const out = join(crate, "assets");
const check = process.argv.includes("--check");
const sha = (bytes) => createHash("sha256").update(bytes).digest("hex");
/** JavaScript, all of it, compressed. */
const LIMIT = 45 * 1024;

const built = await build({
  absWorkingDir: here,
  entryPoints: { app: "src/main.tsx" },
  outdir: "out",
  bundle: true,
  minify: true,
  format: "esm",
  target: ["es2022", "chrome123", "firefox120", "safari17.5"],
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "eof",
  charset: "utf8",
  write: false,
  logLevel: "warning",
});

const KINDS = { html: "text/html; charset=utf-8", js: "text/javascript; charset=utf-8", css: "text/css; charset=utf-8", svg: "image/svg+xml", txt: "text/plain; charset=utf-8" };
const files = new Map(built.outputFiles.map((file) => [relative(join(here, "out"), file.path), Buffer.from(file.contents)]));
for (const name of ["index.html", "icon.svg"]) files.set(name, readFileSync(join(here, "src", name)));
// What is in app.js besides our own, under its own licences.
const licences = ["preact", "@preact/signals", "@preact/signals-core", "lucide"].map((name) => {
  const { version, license } = JSON.parse(readFileSync(join(here, "node_modules", name, "package.json"), "utf8"));
  return `${name} ${version} (${license})\n\n${readFileSync(join(here, "node_modules", name, "LICENSE"), "utf8").trim()}\n`;
});
files.set("licences.txt", Buffer.from(licences.join("\n\n")));
const names = [...files.keys()].sort();

const gz = gzipSync(files.get("app.js"), { level: 9 }).length;
console.log(`app.js ${files.get("app.js").length} bytes, ${gz} gzipped of at most ${LIMIT}; app.css ${gzipSync(files.get("app.css"), { level: 9 }).length} gzipped`);
if (gz > LIMIT) {
  console.error("error: too much JavaScript");
  process.exit(1);
}

const sources = [];
const walk = (directory) => {
  for (const name of readdirSync(directory).sort()) {
    const path = join(directory, name);
    if (statSync(path).isDirectory()) walk(path);
    else sources.push(path);
  }
};
walk(join(here, "src"));
sources.push(join(here, "build.mjs"), join(here, "package.json"), join(here, "package-lock.json"), join(here, "tsconfig.json"));
const lock = JSON.parse(readFileSync(join(here, "package-lock.json"), "utf8")).packages;
const version = (name) => lock[`node_modules/${name}`].version;
const manifest = {
  made_by: "web/build.mjs",
  with: Object.fromEntries(["@preact/signals", "@preact/signals-core", "esbuild", "lucide", "preact"].map((name) => [name, version(name)])),
  sources: Object.fromEntries(sources.map((path) => [relative(here, path), sha(readFileSync(path))])),
  files: Object.fromEntries(names.map((name) => [name, { bytes: files.get(name).length, sha256: sha(files.get(name)) }])),
};
const manifestText = `${JSON.stringify(manifest, null, 2)}\n`;

const table = `//! Made by \`web/build.mjs\`; do not edit. What is embedded, with the digest that the page's files are asked again by.

use crate::page::Asset;

macro_rules! asset {
    ($path:literal, $kind:literal, $tag:literal) => {
        Asset {
            path: $path,
            kind: $kind,
            tag: concat!("\\"", $tag, "\\""),
            plain: include_bytes!(concat!("../assets/", $path)),
            brotli: include_bytes!(concat!("../assets/", $path, ".br")),
        }
    };
}

pub(crate) const ASSETS: &[Asset] = &[
${names.map((name) => `    asset!("${name}", "${KINDS[name.split(".").pop()]}", "${sha(files.get(name)).slice(0, 16)}"),`).join("\n")}
];
`;

const wanted = new Map([
  [join(out, "manifest.json"), Buffer.from(manifestText)],
  [join(crate, "src/assets.rs"), Buffer.from(table)],
  ...names.map((name) => [join(out, name), files.get(name)]),
]);

if (check) {
  let wrong = 0;
  const differs = (path) => {
    console.error(`differs: ${relative(crate, path)}`);
    wrong++;
  };
  for (const [path, bytes] of wanted) {
    let there = null;
    try {
      there = readFileSync(path);
    } catch {
      // Reported below.
    }
    if (!there || !there.equals(bytes)) differs(path);
  }
  for (const name of names) {
    // Another brotli may press another way; what comes out of it is what counts.
    const pressed = readFileSync(join(out, `${name}.br`));
    if (!brotliDecompressSync(pressed).equals(files.get(name))) differs(join(out, `${name}.br`));
  }
  const expected = new Set(["manifest.json", ...names, ...names.map((name) => `${name}.br`)]);
  for (const name of readdirSync(out)) if (!expected.has(name)) differs(join(out, name));
  if (wrong) {
    console.error("error: crates/dashboard/assets is not what web/ makes; run npm run build in web/");
    process.exit(1);
  }
  console.log(`the committed ${wanted.size} files are what web/ makes`);
} else {
  rmSync(out, { recursive: true, force: true });
  mkdirSync(out, { recursive: true });
  for (const [path, bytes] of wanted) writeFileSync(path, bytes);
  for (const name of names) {
    const options = { params: { [constants.BROTLI_PARAM_QUALITY]: 11, [constants.BROTLI_PARAM_SIZE_HINT]: files.get(name).length } };
    writeFileSync(join(out, `${name}.br`), brotliCompressSync(files.get(name), options));
  }
}
