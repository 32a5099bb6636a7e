// The built program as a process: pipes that close, output that is whole, a live machine.

import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { ROOT } from '../support/source-files.ts';
import { DEMO, runCli } from './run-cli.ts';

const MAIN = join(ROOT, 'dist/cli/main.js');
const sh = (script: string) =>
  spawnSync('bash', ['-c', script], { encoding: 'utf8', env: { ...process.env, COLUMNS: '120' } });
const node = `'${process.execPath}' '${MAIN}'`;

describe('the process', () => {
  it('Q13 a reader that goes away ends it quietly: | head', () => {
    const ran = sh(`${node} explain node:0 -a -q --from '${DEMO}' | head -n 1; echo "codes \${PIPESTATUS[*]}"`);
    expect(ran.stderr).toBe('');
    expect(ran.stdout).toMatch(/^demo\.dimmer, .*\ncodes 0 0\n$/);
  });

  it('a large document arrives whole through a pipe, and the exit code with it', () => {
    const ran = spawnSync(process.execPath, [MAIN, 'explain', 'node:0', '--json', '-q', '--from', DEMO], {
      encoding: 'utf8',
      maxBuffer: 2 ** 26,
    });
    expect(ran.status).toBe(0);
    expect(ran.stdout).toBe(runCli(['explain', 'node:0', '--json', '-q', '--from', DEMO]).out);
    expect(sh(`${node} check block:2 -q --from '${DEMO}' > /dev/null`).status).toBe(3);
  });

  it('Q13 Ctrl-C ends it with what shells call 130', () => {
    const ran = sh(`${node} check -q & pid=$!; sleep 0.3; kill -INT $pid; wait $pid; echo "code $?"`);
    // Too fast to be caught is no failure of this machine; anything else than done or interrupted is.
    expect(ran.stdout).toMatch(/code (130|0)\n$/);
  });

  it.skipIf(process.platform !== 'linux')('checks the machine it runs on, or says why not', () => {
    const ran = sh(`${node} check --json -q`);
    if (ran.status === 0) expect(JSON.parse(ran.stdout)).toMatchObject({ dimmer: 'check', version: 1 });
    else expect(ran.stderr).toMatch(/^dimmer: [^\n]+\n$/);
    expect([0, 4]).toContain(ran.status);
  });
});
