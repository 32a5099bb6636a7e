// dimmer shell: a prompt on the tree of a machine. The interpreter is src/tree/shell.ts; here are its two mouths.
//
//   terminal    node:readline: prompt, history by arrow keys, completion by Tab; Ctrl-D or exit ends it
//   script      lines from stdin, to its end; the exit code is that of the last command that failed, or of exit N
//
// The machine is a copy in memory: whatever is written, nothing outside of this process changes. The prompt outlives
// runProgram, so that its exit code comes later (Io.later).

import * as fs from 'node:fs';
import * as readline from 'node:readline';
import * as tty from 'node:tty';
import type { Command } from 'commander';
import { Shell } from '#tree/index';
import { EXIT } from './exit-code.ts';
import type { Io } from './io.ts';
import { openMachine } from './open-machine.ts';
import type { SourceOptions } from './open-twin.ts';
import { complain, withSource } from './options.ts';

/** Where lines come from; a test gives its own. */
export type ShellInput = {
  readonly isTty: boolean;
  /** Everything up to its end. */
  readonly all: () => string;
};

const stdin = (): ShellInput => ({ isTty: tty.isatty(0), all: () => fs.readFileSync(0, 'utf8') });

type Options = SourceOptions & { readonly command?: string };

export function addShell(program: Command, io: Io, exit: (code: number) => void, from: () => ShellInput = stdin): void {
  withSource(program.command('shell'))
    .description('A prompt on the /sys and /proc of a machine: read it, change it, see what Linux would say.')
    .option('-c, --command <line>', 'run this line and end')
    .addHelpText(
      'after',
      `
Nothing is written to this computer: the machine is a copy in memory, gone at the end. "help" lists the commands.
Without a terminal, lines come from stdin; the exit code is that of the last command that failed.

Examples:
  dimmer shell --from host.dimmer
  dimmer shell --from docs/guide/machines/two-nodes.yaml
  dimmer shell --from host.dimmer -c 'echo offline > memory34/state; ls blocks'`,
    )
    .action((options: Options) => {
      const opened = openMachine(io, options);
      if (!opened.ok) return exit(complain(io, opened.error));
      const shell = new Shell(opened.value.machine, opened.value.tree);
      if (options.command !== undefined) return exit(runLines(io, shell, [options.command]));
      const input = from();
      if (!input.isTty || io.later === undefined) return exit(runLines(io, shell, input.all().split('\n')));
      io.later(interact(io, shell));
      exit(EXIT.OK);
    });
}

/** @returns the exit code */
function runLines(io: Io, shell: Shell, lines: readonly string[]): number {
  for (const line of lines) {
    const answer = shell.run(line);
    if (answer.out !== '') io.out(answer.out);
    if (answer.err !== '') io.err(answer.err);
    if (answer.exit) break;
  }
  return shell.exitStatus;
}

/** The prompt, until Ctrl-D or exit. @returns the exit code, then */
function interact(io: Io, shell: Shell): Promise<number> {
  const prompt = readline.createInterface({
    input: process.stdin,
    output: process.stdout,
    completer: (line: string) => shell.complete(line) as [string[], string],
    historySize: 1000,
  });
  io.err('A copy of the machine, in memory. "help" lists the commands, Ctrl-D ends it.\n');
  prompt.setPrompt(shell.prompt);
  prompt.prompt();
  return new Promise((resolve) => {
    prompt.on('line', (line) => {
      const answer = shell.run(line);
      if (answer.out !== '') io.out(answer.out);
      if (answer.err !== '') io.err(answer.err);
      if (answer.exit) return prompt.close();
      prompt.setPrompt(shell.prompt);
      prompt.prompt();
    });
    // Ctrl-C takes the line back, as in a shell.
    prompt.on('SIGINT', () => {
      io.out('\n');
      prompt.write(null, { ctrl: true, name: 'u' });
      prompt.prompt();
    });
    prompt.on('close', () => {
      io.out('\n');
      resolve(shell.exitStatus);
    });
  });
}
