// dimmer capture and dimmer unpack: one machine as one file, and the file as a directory that lsmem understands.

import type { Command } from 'commander';
import { formatSize, plural } from '#base/format';
import { unpackCapture, writeBundle } from '#hosts/linux/write';
import { EXIT } from './exit-code.ts';
import type { Io } from './io.ts';
import { notesOf } from './notes.ts';
import { openCapture, type SourceOptions } from './open-twin.ts';
import { complain, withSource } from './options.ts';
import { Progress } from './progress.ts';
import { VERSION } from './version.ts';

export function addCapture(program: Command, io: Io, exit: (code: number) => void): void {
  withSource(program.command('capture'))
    .description('Saves a machine in one small file, to be judged elsewhere. Nothing but that file is written.')
    .option('-o, --output <file>', 'the bundle to write', 'machine.dimmer')
    .addHelpText(
      'after',
      `
What is in it, and what is left out of it (addresses of the kernel, host names, command lines): docs/formats/capture.md

Examples:
  sudo dimmer capture -o host.dimmer            this machine, every page
  dimmer check --from host.dimmer               later, elsewhere, as anyone
  dimmer capture -s /mnt/other -o other.dimmer  from a directory with proc/ and sys/
  dimmer capture --from qemu:vm.qmp,agent=vm.qga -o vm.dimmer   a guest, through its agent; nothing else is needed in it`,
    )
    .action((options: SourceOptions & { output: string }) => exit(runCapture(io, options)));
  program
    .command('unpack')
    .description('Unpacks a bundle into a new directory, for lsmem --sysroot DIR and for your own eyes.')
    .argument('<file>', 'a bundle')
    .argument('<dir>', 'a directory that does not exist yet, or is empty')
    .addHelpText('after', '\nExample:\n  dimmer unpack host.dimmer host && lsmem --sysroot host')
    .action((file: string, dir: string) => exit(runUnpack(io, file, dir)));
}

function runCapture(io: Io, options: SourceOptions & { output: string }): number {
  const progress = new Progress(io, options.quiet === true);
  progress.say('reading');
  const capture = openCapture(io, options);
  progress.end();
  if (!capture.ok) return complain(io, capture.error);
  const written = writeBundle(capture.value, { file: options.output, toolVersion: VERSION });
  if (!written.ok)
    return complain(io, {
      exit: written.error.reason === 'failed' ? EXIT.FAILED : EXIT.USAGE,
      sentence: written.error.sentence.replace(/\.$/, ''),
    });
  if (options.quiet !== true) {
    for (const note of notesOf(capture.value.problems)) io.err(`${note}\n`);
    io.err(`${options.output}: ${formatSize(written.value.bytes)}\n`);
  }
  return EXIT.OK;
}

function runUnpack(io: Io, file: string, dir: string): number {
  const capture = openCapture(io, { from: file });
  if (!capture.ok) return complain(io, capture.error);
  const written = unpackCapture(capture.value, { directory: dir });
  if (!written.ok)
    return complain(io, {
      exit: written.error.reason === 'failed' ? EXIT.FAILED : EXIT.USAGE,
      sentence: written.error.sentence.replace(/\.$/, ''),
    });
  io.err(`${dir}: ${plural(written.value.files, 'file')}\n`);
  return EXIT.OK;
}
