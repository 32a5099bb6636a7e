// dimmer as its users run it: a process of its own, whose output, exit code and journal are all that is looked at.
//
//   dimmer(['apply', plan, ...]) ──> { code, out, err, ms }
//       atLine: { journal, line, signal }     when the journal has that many whole lines, the process gets the signal:
//                                             SIGKILL is a crash between two lines, SIGINT is Ctrl-C
//
// The journal is polled from outside, so that nothing of dimmer knows about the crash. A line is on the disk before the act
// it speaks of, and an act takes longer than a look; that it was no later line is what `lines` of the result tells.

import { spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { inject } from 'vitest';
import type { JournalLine } from '#control/journal';
import type { Guest } from './guest.ts';

/** DIMMER_MAIN: another built dimmer, such as an installed one. */
const MAIN = process.env.DIMMER_MAIN ?? fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));

const RUN_MS = 150_000;
const POLL_MS = 1;

export type DimmerRun = {
  /** undefined: ended by a signal. */
  readonly code: number | undefined;
  readonly out: string;
  readonly err: string;
  readonly ms: number;
  /** Whole lines of the journal when the signal was sent; undefined when it was not. */
  readonly lines: number | undefined;
};

export type AtLine = { readonly journal: string; readonly line: number; readonly signal: 'SIGKILL' | 'SIGINT' };

/** The guest as --from names it, its sockets replaced by others (a proxy's) where told. */
export const sourceOf = (guest: Guest, sockets: { qmp?: string; agent?: string } = {}): string =>
  `qemu:${sockets.qmp ?? guest.qmpSocket},agent=${sockets.agent ?? guest.agentSocket}`;

/** Runs dimmer to its end. Throws when it does not end in time: every deadline of its own is shorter. */
export function dimmer(
  args: readonly string[],
  o: { atLine?: AtLine; onOutput?: (text: string) => void; cwd?: string } = {},
): Promise<DimmerRun> {
  const start = performance.now();
  const child = spawn(process.execPath, [MAIN, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, DIMMER_LOCK_DIR: inject('locks') },
    ...(o.cwd === undefined ? {} : { cwd: o.cwd }),
  });
  const said = { out: '', err: '' };
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    said.out += text;
    o.onOutput?.(text);
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    said.err += text;
    o.onOutput?.(text);
  });
  let lines: number | undefined;
  const { atLine } = o;
  const poll =
    atLine === undefined
      ? undefined
      : setInterval(() => {
          const now = journalText(atLine.journal).length;
          if (lines !== undefined || now < atLine.line) return;
          lines = now;
          child.kill(atLine.signal);
        }, POLL_MS);
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      child.kill('SIGKILL');
      reject(new Error(`dimmer ${args.join(' ')}: no end after ${RUN_MS} ms\n${said.out}\n${said.err}`));
    }, RUN_MS);
    child.on('close', (code) => {
      clearTimeout(timer);
      clearInterval(poll);
      resolve({ code: code ?? undefined, ...said, ms: performance.now() - start, lines });
    });
  });
}

/** As dimmer, and the run must end with this code: else everything that was said is in the error. */
export async function expectExit(
  code: number,
  args: readonly string[],
  o: Parameters<typeof dimmer>[1] = {},
): Promise<DimmerRun> {
  const run = await dimmer(args, o);
  if (run.code !== code)
    throw new Error(
      `exit ${run.code}, not ${code}: dimmer ${args.join(' ')}\n--- out\n${run.out}\n--- err\n${run.err}`,
    );
  return run;
}

/** Whole lines: what comes after the last line's end was torn off by a crash. */
const journalText = (file: string): string[] =>
  existsSync(file) ? readFileSync(file, 'utf8').split('\n').slice(0, -1) : [];

export const readJournal = (file: string): JournalLine[] => journalText(file).map((l) => JSON.parse(l) as JournalLine);
