// The README's library example runs as it stands: in Node, and bundled for a browser without anything of Node's.

import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { runInNewContext } from 'node:vm';
import { build } from 'esbuild';
import { beforeAll, describe, expect, it } from 'vitest';
import { ROOT, textOf } from './support/source-files.ts';

const examples = [...textOf('README.md').matchAll(/```ts\n([\s\S]*?)```/g)].map((m) => m[1] as string);
const example = examples[0] ?? '';

const expected = (out: string): void => {
  const lines = out.trim().split('\n');
  expect(lines).toHaveLength(2);
  expect(lines[0]).toBe('block 40 is offline: 0 pages moved');
  expect(lines[1]).toMatch(/^block 32: EBUSY, .*100 frames cannot move.*dentries/);
};

describe('the library example of the README', () => {
  beforeAll(() => {
    expect(example).toContain("from 'dimmer'");
  });

  it('is under 20 lines', () => {
    expect(example.trim().split('\n').length).toBeLessThan(20);
  });

  it('runs in Node against the built package', () => {
    // The package imports itself by name, so that `exports` is what is tested. The example is valid JavaScript.
    const out = execFileSync(process.execPath, ['--input-type=module', '-e', example], { cwd: ROOT, encoding: 'utf8' });
    expected(out);
  });

  it('the second example adds memory, brings a block online, and is refused its removal', () => {
    const args = ['--input-type=module', '-e', examples[1] ?? ''];
    const out = execFileSync(process.execPath, args, { cwd: ROOT, encoding: 'utf8' });
    expect(out).toMatch(/40,\s+41,\s+42,\s+43,\s+44,\s+45,\s+46,\s+47/);
    expect(out).toContain("[ 'Normal', 'Movable' ]");
    expect(out).toMatch(/^EBUSY removing memory fails, because memory \[0x0000000140000000-/m);
  });

  it('runs bundled for a browser, with nothing of Node in reach', async () => {
    const bundle = await build({
      stdin: { contents: example, resolveDir: ROOT, loader: 'ts' },
      bundle: true,
      format: 'iife',
      platform: 'browser',
      minify: true,
      write: false,
      logLevel: 'silent',
      absWorkingDir: join(ROOT),
    });
    expect(bundle.errors).toEqual([]);
    const lines: string[] = [];
    // A bare realm: JavaScript and a console, no process, require, Buffer or timers.
    runInNewContext(bundle.outputFiles[0]?.text ?? '', { console: { log: (s: string) => lines.push(s) } });
    expected(lines.join('\n'));
  });
});
