// dimmer with a FakeKernel behind `mount`: the command as it is, the tree without an engine.

import { Command } from 'commander';
import { ok } from '../../src/base/result.ts';
import { addMount } from '../../src/cli/mount-command.ts';
import { FakeKernel } from './fake-kernel.ts';

const program = new Command('dimmer').enablePositionalOptions();
addMount(
  program,
  {
    out: (text) => process.stdout.write(text),
    err: (text) => process.stderr.write(text),
    env: process.env,
    outIsTty: false,
    errIsTty: false,
    columns: undefined,
    platform: process.platform,
    now: () => new Date(0),
    later: (promise) => {
      promise.then(
        (code) => {
          process.exitCode = code;
        },
        (e) => {
          process.stderr.write(`bug: ${e}\n`);
          process.exitCode = 1;
        },
      );
    },
  },
  (code) => {
    process.exitCode = code;
  },
  () => ok(new FakeKernel()),
);
program.parse(process.argv.slice(2), { from: 'user' });
