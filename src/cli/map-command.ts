// dimmer map: the picture of physical memory, on the terminal or as an SVG.

import type { Command } from 'commander';
import { memoryMap } from '#query/index';
import { sourceLine } from './check-command.ts';
import { type Complaint, EXIT } from './exit-code.ts';
import { type Io, wantsColour, widthOf } from './io.ts';
import { formatJson } from './json.ts';
import { mapSvg } from './map-svg.ts';
import { formatMap } from './map-text.ts';
import { ask, type SourceOptions } from './open-twin.ts';
import { complain, withSource } from './options.ts';
import { writeWhole } from './write-file.ts';

type Options = SourceOptions & { readonly json?: boolean; readonly output?: string };

export function addMap(program: Command, io: Io, exit: (code: number) => void): void {
  withSource(program.command('map'))
    .description('The picture of physical memory: what fills each pageblock of 2 MiB, and which blocks would go.')
    .argument('[target]', 'only this part: block:32-39, node:1, zone:1/Normal, ...')
    .option('-o, --output <file>', 'write an SVG ("-": to stdout)')
    .option('-J, --json', 'the cells as a JSON document (docs/formats/json.md)')
    .addHelpText(
      'after',
      `
Examples:
  dimmer map                        on the terminal
  dimmer map zone:1/Movable         a part of it
  dimmer map -o memory.svg          for a browser or a report
  FORCE_COLOR=1 dimmer map | less -R`,
    )
    .action((target: string | undefined, options: Options) => exit(run(io, target, options)));
}

/** Terminals narrower than one tile do not exist; 80 where there is none. */
const WIDTH_DEFAULT = 80;

function run(io: Io, target: string | undefined, options: Options): number {
  if (options.json === true && options.output !== undefined)
    return complain(io, { exit: EXIT.USAGE, sentence: '--json goes to stdout: leave --output away' });
  const asked = ask(io, target, options);
  if (!asked.ok) return complain(io, asked.error);
  const map = memoryMap(asked.value.twin, asked.value.verdicts);
  if (map === undefined)
    return complain(io, {
      exit: EXIT.UNSUPPORTED,
      sentence: 'no picture without the pages: /proc/kpageflags was not readable; run it as root',
    });
  if (options.json === true) {
    io.out(formatJson('map', map));
  } else if (options.output === '-') {
    io.out(mapSvg(map));
  } else if (options.output !== undefined) {
    const failed = writeSvg(options.output, mapSvg(map));
    if (failed !== undefined) return complain(io, failed);
  } else {
    io.out(
      `${sourceLine(map.source)}\n\n${formatMap(map, { colour: wantsColour(io), width: widthOf(io) ?? WIDTH_DEFAULT })}`,
    );
  }
  return EXIT.OK;
}

/** Whole or not at all. Never into a place of the kernel, and never over something that is not an SVG. */
const writeSvg = (file: string, svg: string): Complaint | undefined =>
  writeWhole(file, svg, { kind: 'an SVG', isOurs: (old) => /^\s*(<\?xml[^>]*>\s*)?<svg/.test(old.slice(0, 500)) });
