#!/usr/bin/env node
// dimmer, the command: connects the program to the process it runs in.
//
// A reader that stops reading (| head) ends the output, not the program with a stack trace. A bug shows its own sentence,
// and its stack when DIMMER_DEBUG is set. Ctrl-C: the shell sees 130; it is caught only by what has something to end first.

import { EXIT } from './exit-code.ts';
import { openLiveHost } from './live-hosts.ts';
import { runProgram } from './program.ts';

for (const stream of [process.stdout, process.stderr]) {
  stream.on('error', (e: NodeJS.ErrnoException) => {
    if (e.code !== 'EPIPE') throw e;
    process.exit(process.exitCode ?? EXIT.OK);
  });
}

const fail = (e: unknown): void => {
  const said = e instanceof Error ? e.message : String(e);
  process.stderr.write(`dimmer: a bug of dimmer, sorry: ${said}\n`);
  if ((process.env.DIMMER_DEBUG ?? '') !== '' && e instanceof Error) process.stderr.write(`${e.stack}\n`);
  process.exitCode = EXIT.FAILED;
};

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
    openHost: (source) => openLiveHost(source),
    later: (promise) => {
      promise.then((code) => {
        process.exitCode = code;
      }, fail);
    },
  });
} catch (e) {
  fail(e);
}
