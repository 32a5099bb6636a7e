// Runs the commands that the README and the guides show, and compares the output that they quote.
//
//   node tools/readme-commands.mjs            run and compare; exit 1 with what differs
//   node tools/readme-commands.mjs --update   rewrite the quoted output
//
// A quoted output is a ```text block under a line  <!-- output: COMMAND -->. A shown command is a line of a ```sh block
// that starts with `node `; a trailing `# ...` is prose, and `# exit N` names the exit code it must have. Commands run
// in a folder of their document's own, so that what they write is thrown away. npm commands are the caller's business: .ci/run.

import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const update = process.argv.includes('--update');
const docs = ['README.md', ...readdirSync(join(root, 'docs/guide')).map((f) => `docs/guide/${f}`)].filter((f) =>
  f.endsWith('.md'),
);

let box = '';
/** A folder with everything of the repository in it, and nothing that another document's commands have written. */
const newBox = () => {
  if (box !== '') rmSync(box, { recursive: true, force: true });
  box = mkdtempSync(join(tmpdir(), 'dimmer-docs-'));
  for (const name of readdirSync(root)) if (!name.startsWith('.')) symlinkSync(join(root, name), join(box, name));
};

const run = (command) =>
  spawnSync('sh', ['-c', command], {
    cwd: box,
    encoding: 'utf8',
    timeout: 120_000,
    env: { ...process.env, NO_COLOR: '1', COLUMNS: '180' },
  });

let failures = 0;
let ran = 0;
const fail = (text) => {
  failures++;
  console.error(text);
};

try {
  for (const doc of docs) {
    newBox();
    const path = join(root, doc);
    let text = readFileSync(path, 'utf8');
    text = text.replace(/(<!-- output: (.+?) -->\n```text\n)([\s\S]*?)(```)/g, (whole, head, command, quoted, tail) => {
      const done = run(command);
      ran++;
      if (done.status !== 0) fail(`${doc}: ${command}: exit ${done.status}\n${done.stderr}`);
      const out = done.stdout.replace(/[ \t]+$/gm, '');
      if (!update && out !== quoted)
        fail(`${doc}: the quoted output of \`${command}\` is out of date (--update rewrites it)`);
      return update ? head + out + tail : whole;
    });
    if (update) writeFileSync(path, text);
    for (const block of text.matchAll(/```sh\n([\s\S]*?)```/g)) {
      for (const line of block[1].split('\n')) {
        if (!line.startsWith('node ')) continue;
        const expected = Number(/# exit (\d+)/.exec(line)?.[1] ?? 0);
        const done = run(line.replace(/\s+#.*$/, ''));
        ran++;
        if (done.status !== expected)
          fail(`${doc}: ${line}: exit ${done.status}, expected ${expected}\n${done.stderr}`);
      }
    }
  }
} finally {
  rmSync(box, { recursive: true, force: true });
}
console.log(`${ran - failures} passed, ${failures} failed`);
process.exit(failures === 0 ? 0 : 1);
