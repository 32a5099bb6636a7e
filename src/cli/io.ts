// Io: what the commands may do to the world, besides reading a machine: two streams, the environment, the time.
//
// A port, so that tests run the whole program in their own process. Data goes to `out`, everything said about it to
// `err`. Writes do not throw: a reader that has gone away (dimmer ls | head) is the stream owner's business (main.ts).

import type { Result } from '#base/result';
import type { Capture } from '#capture/capture';
import type { Host } from '#control/host';
import type { Complaint } from './exit-code.ts';

export type Io = {
  readonly out: (text: string) => void;
  readonly err: (text: string) => void;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly outIsTty: boolean;
  readonly errIsTty: boolean;
  /** Columns of the terminal; undefined when the output is none. */
  readonly columns: number | undefined;
  readonly platform: string;
  readonly now: () => Date;
  /**
   * Takes an exit code that is not known yet: `dimmer mount` serves until it is unmounted. It replaces the one that
   * runProgram returned. Absent where nobody would wait for it; commands that serve are refused then.
   */
  readonly later?: (code: Promise<number>) => void;
  /** Captures of live machines that have been fetched, by the name that --from gives them; see live-source.ts. */
  readonly live?: ReadonlyMap<string, Capture>;
  /**
   * Connects to a guest by that name, or to this machine ("host"). Absent where none can be reached; needs `later`.
   * `apply`: this machine may be written to.
   */
  readonly openHost?: (source: string, how?: { readonly apply: boolean }) => Result<Host, Complaint>;
  /** Asks whoever sits at the terminal, and waits for a line; undefined: they have gone. Absent without a terminal. */
  readonly ask?: (question: string) => Promise<string | undefined>;
  /** Calls `run` on the first Ctrl-C, unless the function that it returns is called before; the next one ends the process. */
  readonly onInterrupt?: (run: () => void) => () => void;
};

/** COLUMNS wins, as everywhere; undefined means: as wide as it takes. */
export function widthOf(io: Io): number | undefined {
  const said = Number(io.env.COLUMNS);
  return Number.isInteger(said) && said > 0 ? said : io.columns;
}

/** https://no-color.org: any non-empty value forbids colour; FORCE_COLOR asks for it on a pipe. */
export function wantsColour(io: Io): boolean {
  if ((io.env.NO_COLOR ?? '') !== '') return false;
  return (io.env.FORCE_COLOR ?? '') !== '' || (io.outIsTty && io.env.TERM !== 'dumb');
}
