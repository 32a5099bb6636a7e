#!/usr/bin/env node
// dimmer, the command: connects the program to the process it runs in.
//
// A reader that stops reading (| head) ends the output, not the program with a stack trace. A bug shows its own sentence,
// and its stack when DIMMER_DEBUG is set. Ctrl-C: the shell sees 130; it is caught only by what has something to end first.

import * as readline from 'node:readline';
import { EXIT } from './exit-code.ts';
import { openLiveHost } from './live-hosts.ts';
import { runProgram } from './program.ts';

for (const stream of [process.stdout, process.stderr]) {
  stream.on('error', (e: NodeJS.ErrnoException) => {
    if (e.code !== 'EPIPE' && e.code !== 'EIO') throw e; // EIO: the terminal has been closed
    process.exit(process.exitCode ?? EXIT.OK);
  });
}

const fail = (e: unknown): void => {
  const said = e instanceof Error ? e.message : String(e);
  process.stderr.write(`dimmer: a bug of dimmer, sorry: ${said}\n`);
  if ((process.env.DIMMER_DEBUG ?? '') !== '' && e instanceof Error) process.stderr.write(`${e.stack}\n`);
  process.exitCode = EXIT.FAILED;
};

/** The question goes to stderr: stdout may be a file. Ctrl-C and Ctrl-D are no answer. */
const askTerminal = (question: string): Promise<string | undefined> =>
  new Promise((resolve) => {
    const prompt = readline.createInterface({ input: process.stdin, output: process.stderr });
    prompt.once('close', () => resolve(undefined));
    prompt.once('SIGINT', () => prompt.close());
    prompt.question(question, (answer) => {
      resolve(answer);
      prompt.close();
    });
  });

try {
  process.exitCode = runProgram(process.argv.slice(2), {
    out: (text) => process.stdout.write(text),
    err: (text) => process.stderr.write(text),
    env: process.env,
    outIsTty: process.stdout.isTTY === true,
    errIsTty: process.stderr.isTTY === true,
    columns: process.stdout.columns,
    platform: process.platform,
    now: () => new Date(),
    openHost: openLiveHost,
    ...(process.stdin.isTTY === true ? { ask: askTerminal } : {}),
    onInterrupt: (run) => {
      const signals = ['SIGINT', 'SIGTERM'] as const;
      const off = (): void => {
        for (const s of signals) process.off(s, first);
      };
      // Once: the next one ends the process, as ever.
      const first = (): void => {
        off();
        run();
      };
      for (const s of signals) process.on(s, first);
      return off;
    },
    later: (promise) => {
      promise.then((code) => {
        process.exitCode = code;
      }, fail);
    },
  });
} catch (e) {
  fail(e);
}
