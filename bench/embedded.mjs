// The bench of the embedded build: what it weighs and what an operation costs, beside the full engine.
//
//   node bench/embedded.mjs [--json] [--reps N] [--ops N] [--quick]
//
// Needs dist (npm run build). Prints two tables:
//
//   size   bundles by esbuild, minified, plain and gzip; bytes of tables a page; boot in a fresh process
//   time   ns per operation on small machines, every (engine, workload, machine) a process of its own, round-robin
//
// Every row runs a minified bundle, so that what is weighed is what is timed. Workloads: workloads.mjs.
// Judge ratios within one run, never nanoseconds.

import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { gzipSync } from 'node:zlib';

const here = fileURLToPath(new URL('.', import.meta.url));
const dist = join(here, '../dist/mm');
const self = fileURLToPath(import.meta.url);
const TIMEOUT_MS = 120_000;
const MIB_PAGES = 256;
/** From 4 GiB up: one zone on every build. */
const BASE = 2 ** 20;

const module = (path) => import(pathToFileURL(path).href);
const range = (pages) => ({ startPfn: BASE, endPfn: BASE + pages });

const overAllocator = (a) => ({
  allocPages: (order) => {
    const pfn = a.alloc(order);
    return pfn < 0 ? -1 : pfn - BASE;
  },
  freePages: (page, order) => a.free(page + BASE, order),
  metadataBytes: () => a.bytes(),
});

/** How each engine is made: from the folder of the bundles to pages -> engine of workloads.mjs. */
const ENGINES = {
  embedded: {
    what: 'frees are checked',
    make: async (bundles) => {
      const { bootEmbedded } = await module(join(bundles, 'embedded.mjs'));
      return (pages) => overAllocator(bootEmbedded(range(pages)));
    },
  },
  'embedded, trusted': {
    what: 'frees are trusted',
    make: async (bundles) => {
      const { bootEmbedded } = await module(join(bundles, 'embedded.mjs'));
      return (pages) => overAllocator(bootEmbedded({ ...range(pages), frees: 'trusted' }));
    },
  },
  'embedded, shared': {
    what: 'frees are checked; no code from strings',
    make: async (bundles) => {
      const { bootEmbedded } = await module(join(bundles, 'embedded.mjs'));
      return (pages) => overAllocator(bootEmbedded({ ...range(pages), code: 'shared' }));
    },
  },
  'page-alloc': {
    what: "the full engine's allocator alone: per-CPU lists, grouping, fallback",
    make: async (bundles) => {
      const { createFreeArea, createPageAlloc } = await module(join(bundles, 'page-alloc.mjs'));
      return (pages) => {
        const area = createFreeArea(pages, 'address', 'own');
        const pool = createPageAlloc(area, { cpus: 1, batch: 64, high: 256, capacity: 512, code: 'own' });
        pool.online(0, pages);
        return { allocPages: pool.alloc, freePages: pool.free, metadataBytes: pool.bytes };
      };
    },
  },
  machine: {
    what: 'a Machine: zonelist, frame columns, three holders; no watermarks',
    make: async (bundles) => {
      const { Machine } = await module(join(bundles, 'full.mjs'));
      return (pages) => {
        const ram = [{ start: BASE, end: BASE + pages, node: 0, zone: 2 }];
        const m = Machine.boot({ ram, watermarks: 'none' });
        const classes = ['slab', 'anonymous', 'slab-reclaimable'];
        const holders = classes.map((name) => m.addHolder({ class: name, name }));
        return {
          allocPages: (order, type) => {
            const pfn = m.alloc(holders[type], order);
            return pfn < 0 ? -1 : pfn - BASE;
          },
          freePages: (page) => m.free(page + BASE),
          metadataBytes: () => m.bytes(),
        };
      };
    },
  },
  full: {
    what: 'a Machine behind the same small interface (boot-allocator.ts), its order checked at each free',
    make: async (bundles) => {
      const { bootFull } = await module(join(bundles, 'boot-allocator.mjs'));
      return (pages) => overAllocator(bootFull(range(pages)));
    },
  },
};
const BUNDLES = {
  embedded: { files: ['embedded.js'], what: 'dimmer/embedded: the embedded build alone' },
  'page-alloc': { files: ['free-area-create.js', 'page-alloc.js'], what: "the full engine's allocator alone" },
  'boot-allocator': { files: ['boot-allocator.js'], what: 'both builds, chosen at boot' },
  full: { files: ['index.js'], what: 'dimmer: the whole engine' },
};
const WORKLOADS = { W1: 'order 0, walk', W1b: 'order 0, bursts', W2: 'orders 0 to 9' };

/** One figure in this process. @returns a JSON row */
async function one([bundles, name, work, size]) {
  const pages = Number(size);
  const begin = performance.now();
  const create = await ENGINES[name].make(bundles);
  const imported = performance.now();
  if (work !== 'boot') {
    const { runWorkload } = await module(join(here, 'workloads.mjs'));
    return runWorkload(work, create, { pages, ops: Number(process.env.OPS) });
  }
  const e = create(pages);
  e.allocPages(0, 1);
  const booted = performance.now();
  const atBoot = e.metadataBytes();
  while (e.allocPages(0, 1) >= 0);
  const inUse = e.metadataBytes();
  return { importMs: imported - begin, bootMs: booted - imported, atBoot: atBoot / pages, inUse: inUse / pages };
}

async function bundle(bundles) {
  const { build } = await import('esbuild');
  const out = [];
  for (const [name, { files }] of Object.entries(BUNDLES)) {
    const { outputFiles } = await build({
      absWorkingDir: join(here, '..'),
      stdin: { contents: files.map((f) => `export * from './${f}';`).join('\n'), resolveDir: dist },
      bundle: true,
      minify: true,
      format: 'esm',
      platform: 'neutral',
      write: false,
    });
    const [{ contents }] = outputFiles;
    writeFileSync(join(bundles, `${name}.mjs`), contents);
    out.push({ name, bytes: contents.length, gzip: gzipSync(contents, { level: 9 }).length });
  }
  return out;
}

async function main(args) {
  const flag = (name) => args.includes(`--${name}`);
  const option = (name, otherwise) => (flag(name) ? args[args.indexOf(`--${name}`) + 1] : otherwise);
  const quick = flag('quick');
  const reps = Number(option('reps', quick ? 1 : 5));
  const ops = Number(option('ops', quick ? 50_000 : 3_000_000));
  const machines = [16, 64]; // MiB
  if (!existsSync(join(dist, 'embedded.js'))) {
    console.error('dist is not built: npm run build');
    return 2;
  }
  const bundles = mkdtempSync(join(tmpdir(), 'dimmer-embedded-'));
  process.on('exit', () => rmSync(bundles, { recursive: true, force: true }));
  const sizes = await bundle(bundles);

  const cases = [];
  for (const mib of machines) for (const w of Object.keys(WORKLOADS)) cases.push([w, mib]);
  for (const mib of quick ? [64] : [64, 4096]) cases.push(['boot', mib]);
  const rows = new Map();
  let failed = false;
  for (let rep = 0; rep < reps; rep++) {
    for (const [work, mib] of cases) {
      for (const name of Object.keys(ENGINES)) {
        const argv = [self, '--one', bundles, name, work, String(mib * MIB_PAGES)];
        const env = { ...process.env, OPS: String(ops) };
        const child = spawnSync(process.execPath, argv, { encoding: 'utf8', timeout: TIMEOUT_MS, env });
        if (child.status !== 0) {
          failed = true;
          console.error(`FAILED  ${name} on ${work}, ${mib} MiB: ${child.error?.message ?? child.stderr.trim()}`);
          continue;
        }
        const key = `${work} ${mib} ${name}`;
        rows.set(key, [...(rows.get(key) ?? []), JSON.parse(child.stdout)]);
      }
    }
    if (!flag('json')) console.error(`rep ${rep + 1} of ${reps} done`);
  }
  if (flag('json')) console.log(JSON.stringify({ sizes, rows: Object.fromEntries(rows) }, null, 1));
  else print(sizes, rows, { reps, ops, machines });
  return failed ? 1 : 0;
}

const number = (v) => (v >= 100 ? v.toFixed(0) : v >= 10 ? v.toFixed(1) : v.toFixed(2));
const least = (list, key) => Math.min(...list.map((r) => r[key]));
function both(list, key) {
  const values = list.map((r) => r[key]).sort((a, b) => a - b);
  return `${number(values[values.length >> 1])} (${number(values[0])})`;
}
const line = (cells) => console.log(`| ${cells.join(' | ')} |`);

function print(sizes, rows, { reps, ops, machines }) {
  const kb = (bytes) => `${(bytes / 1000).toFixed(1)} kB`;
  const of = (work, mib, name) => rows.get(`${work} ${mib} ${name}`);
  console.log(`\nBundles, minified by esbuild.\n`);
  line(['bundle', 'bytes', 'gzip']);
  line(['---', '---', '---']);
  for (const { name, bytes, gzip } of sizes) line([BUNDLES[name].what, kb(bytes), kb(gzip)]);

  const boots = [...new Set([...rows.keys()].filter((k) => k.startsWith('boot ')).map((k) => Number(k.split(' ')[1])))];
  console.log(
    `\nTables: bytes a page at boot, with every frame in use. Boot to the first frame in a fresh process, ms.\n`,
  );
  line(['engine', ...boots.flatMap((mib) => [`${mib} MiB, bytes a page`, 'import', 'boot'])]);
  line(['---', ...boots.flatMap(() => ['---', '---', '---'])]);
  for (const name of Object.keys(ENGINES)) {
    const cells = boots.flatMap((mib) => {
      const list = of('boot', mib, name);
      if (list === undefined) return ['-', '-', '-'];
      const [{ atBoot, inUse }] = list;
      return [`${number(atBoot)}, ${number(inUse)}`, both(list, 'importMs'), both(list, 'bootMs')];
    });
    line([name, ...cells]);
  }

  const columns = machines.flatMap((mib) => Object.keys(WORKLOADS).map((w) => [w, mib]));
  console.log(`\n${ops} operations, ${reps} repetitions. ns per operation, harness included: median (least).\n`);
  line(['engine', ...columns.map(([w, mib]) => `${mib} MiB, ${w}: ${WORKLOADS[w]}`)]);
  line(['---', ...columns.map(() => '---')]);
  for (const name of Object.keys(ENGINES)) {
    line([name, ...columns.map(([w, mib]) => (of(w, mib, name) ? both(of(w, mib, name), 'ns') : '-'))]);
  }
  const ratios = columns.flatMap(([w, mib]) => {
    const mine = of(w, mib, 'embedded');
    const theirs = of(w, mib, 'full');
    return mine && theirs ? [`${mib} MiB ${w} ${(least(theirs, 'ns') / least(mine, 'ns')).toFixed(2)}`] : [];
  });
  console.log(`\nfull / embedded, least of each: ${ratios.join(', ')}\n`);
  for (const [name, { what }] of Object.entries(ENGINES)) console.log(`- ${name}: ${what}`);
}

const args = process.argv.slice(2);
if (args[0] === '--one') console.log(JSON.stringify(await one(args.slice(1))));
else process.exitCode = await main(args);
