// The table of line formats that kernfs.test.ts and kernfs.fuzz.ts run the rules KF1..KF6 over.

import type { Result } from '#base/result';
import { goldenPaths, goldenText } from '../../test/golden/kernfs/load.ts';
import { parseBuddyinfo, printBuddyinfo } from './buddyinfo.ts';
import { parseIomem, printIomem } from './iomem.ts';
import { parseMeminfo, printMeminfo } from './meminfo.ts';
import { parsePagetypeinfo, printPagetypeinfo } from './pagetypeinfo.ts';
import type { KernfsProblem } from './source.ts';
import { parseNodeVmstat, parseVmstat, printVmstat } from './vmstat.ts';
import { parseZoneinfo, printZoneinfo } from './zoneinfo.ts';

export type FormatCase = {
  readonly path: string;
  readonly text: string;
  /** Parsed and printed again. */
  readonly reprint: (text: string) => Result<string, KernfsProblem>;
  /** iomem: indentation is structure, so that blanks count. */
  readonly blanksCount: boolean;
};

function reprint<T>(parse: (text: string) => Result<T, KernfsProblem>, print: (x: T) => string) {
  return (text: string): Result<string, KernfsProblem> => {
    const parsed = parse(text);
    return parsed.ok ? { ok: true, value: print(parsed.value) } : parsed;
  };
}

const FORMATS = {
  buddyinfo: reprint(parseBuddyinfo, printBuddyinfo),
  pagetypeinfo: reprint(parsePagetypeinfo, printPagetypeinfo),
  zoneinfo: reprint(parseZoneinfo, printZoneinfo),
  meminfo: reprint(parseMeminfo, printMeminfo),
  vmstat: reprint(parseVmstat, printVmstat),
  iomem: reprint(parseIomem, printIomem),
};

/** Every golden file of each format. */
export const FORMAT_CASES: readonly FormatCase[] = Object.entries(FORMATS).flatMap(([name, own]) =>
  goldenPaths(name).map((path) => ({
    path,
    text: goldenText(path),
    reprint: name === 'vmstat' && path.includes('/node/') ? reprint(parseNodeVmstat, printVmstat) : own,
    blanksCount: name === 'iomem',
  })),
);

/** What KF2 compares: LF, runs of blanks as one, none at line ends. */
export const squeezed = (text: string): string =>
  text
    .replaceAll('\r\n', '\n')
    .split('\n')
    .map((line) => line.replace(/ +/g, ' ').trim())
    .join('\n');
