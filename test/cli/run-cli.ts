// runCli: the whole program in this process, its output and exit code as values.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import type { Io } from '../../src/cli/io.ts';
import { runProgram } from '../../src/cli/program.ts';
import { ROOT } from '../support/source-files.ts';

export const DEMO = join(ROOT, 'test/golden/demo.dimmer');
export const BUSY_DIMM = join(ROOT, 'test/golden/cli/busy-dimm.dimmer');

export type Ran = { readonly code: number; readonly out: string; readonly err: string };

/** 120 columns, no terminal, no colour, unless `io` says otherwise. */
export function runCli(argv: readonly string[], io: Partial<Io> = {}): Ran {
  let out = '';
  let err = '';
  const code = runProgram(argv, {
    out: (text) => {
      out += text;
    },
    err: (text) => {
      err += text;
    },
    env: { COLUMNS: '120' },
    outIsTty: false,
    errIsTty: false,
    columns: undefined,
    platform: 'linux',
    now: () => new Date(0),
    ...io,
  });
  return { code, out, err };
}

/** A directory that is gone when the test is over. */
export function scratchDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), 'dimmer-cli-'));
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

/** Unpacks a bundle; the page files may be left out, as for a reader who is not root. */
export function unpacked(bundle: string, options: { pages: boolean }): string {
  const directory = join(scratchDirectory(), 'machine');
  const { code, err } = runCli(['unpack', bundle, directory]);
  if (code !== 0) throw new Error(err);
  if (!options.pages)
    for (const name of ['kpageflags', 'kpagecount', 'kpagecgroup'])
      rmSync(join(directory, 'proc', `${name}.gz`), { force: true });
  return directory;
}
