// Real programs for test/real-tools, without installing them: Debian's packages, unpacked below node_modules/.cache.
//
//   node tools/install-test-tools.mjs      prints what is there and what is not; always exit 0
//
//   in PATH? ── yes ──> that one
//      └── no: apt-get download ──> dpkg-deb -x ──> a folder of its own, renamed into place when it is whole
//                     └── no package lists: apt-get update (root), once, and again
//
// Nothing is configured and no service is started: packages are unpacked, never installed. Each step has a time limit; what
// cannot be had is a reason, never an error: its tests are skipped with that reason. The package manager's own client and its
// own sources are all that is used.

import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const CACHE = fileURLToPath(new URL('../node_modules/.cache/dimmer-test-tools/', import.meta.url));

/** The program, the packages that hold it and its libraries, and where it lies in them. */
const TOOLS = [
  { name: 'lsmem', packages: ['util-linux', 'libsmartcols1'], file: 'usr/bin/lsmem' },
  { name: 'chmem', packages: ['util-linux', 'libsmartcols1'], file: 'usr/bin/chmem' },
  { name: 'numactl', packages: ['numactl', 'libnuma1'], file: 'usr/bin/numactl' },
  {
    name: 'prometheus-node-exporter',
    packages: ['prometheus-node-exporter'],
    file: 'usr/bin/prometheus-node-exporter',
  },
];

const STEP_MS = 60_000;
let updated = false;

const run = (command, args, cwd) => spawnSync(command, args, { cwd, encoding: 'utf8', timeout: STEP_MS });
const lastLine = ({ stderr, error }) => error?.message ?? (stderr ?? '').trim().split('\n').pop() ?? 'no reason given';

/** @returns where it is in PATH (sbin too: chmem lives there), or undefined */
function inPath(name) {
  const path = [...(process.env.PATH ?? '').split(':'), '/usr/sbin', '/sbin'];
  return path.map((d) => join(d, name)).find((f) => existsSync(f));
}

/** @returns why the packages could not be unpacked into `home`; undefined when they are there */
function unpack(packages, home) {
  if (existsSync(home)) return undefined;
  if (inPath('apt-get') === undefined || inPath('dpkg-deb') === undefined)
    return 'not installed, and there is no apt-get';
  mkdirSync(CACHE, { recursive: true });
  const box = mkdtempSync(join(CACHE, 'unpacking-'));
  try {
    const download = () => run('apt-get', ['download', '-qq', ...packages], box);
    let done = download();
    if (done.status !== 0 && !updated && process.getuid?.() === 0) {
      updated = true;
      run('apt-get', ['update', '-qq']);
      done = download();
    }
    if (done.status !== 0) return `not installed, and apt-get download ${packages.join(' ')} failed: ${lastLine(done)}`;
    for (const deb of readdirSync(box).filter((f) => f.endsWith('.deb'))) {
      const unpacked = run('dpkg-deb', ['-x', deb, 'root'], box);
      if (unpacked.status !== 0) return `${deb} could not be unpacked: ${lastLine(unpacked)}`;
    }
    try {
      renameSync(join(box, 'root'), home);
    } catch (error) {
      if (!existsSync(home)) return `it could not be kept: ${error.message}`; // else: somebody was faster
    }
    return undefined;
  } finally {
    rmSync(box, { recursive: true, force: true });
  }
}

/** Where the libraries of an unpacked package lie: usr/lib/<triplet>. */
function librariesOf(home) {
  const lib = join(home, 'usr/lib');
  if (!existsSync(lib)) return [];
  return readdirSync(lib)
    .filter((d) => d.includes('-linux-'))
    .map((d) => join(lib, d));
}

/**
 * Finds the tools, or fetches them. Cost: nothing where they are there; else a download of a few MB, bounded.
 * @returns by name { file, env } with what its environment needs besides PATH, or { why } it is not there
 */
export function installTestTools() {
  const found = {};
  for (const { name, packages, file } of TOOLS) {
    const mine = inPath(name);
    if (process.platform !== 'linux') found[name] = { why: 'this is not Linux' };
    else if (mine !== undefined) found[name] = { file: mine, env: {} };
    else {
      const home = join(CACHE, packages[0]);
      const why = unpack(packages, home);
      if (why !== undefined) found[name] = { why };
      else if (!existsSync(join(home, file))) found[name] = { why: `${packages[0]} has no ${file}` };
      else {
        const libraries = librariesOf(home);
        const env = libraries.length === 0 ? {} : { LD_LIBRARY_PATH: libraries.join(':') };
        found[name] = { file: join(home, file), env };
      }
    }
  }
  return found;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  for (const [name, tool] of Object.entries(installTestTools()))
    console.log(
      tool.file === undefined ? `SKIPPED: ${name}: ${tool.why}; its tests do not run` : `${name}: ${tool.file}`,
    );
}
