import { spawn, type ChildProcess } from 'node:child_process'

/** The command line as users run it, from the TypeScript sources. */
export function start(args: string[], environment: Record<string, string> = {}): ChildProcess {
  return spawn(process.execPath, ['--import', 'tsx', 'lib/cli/main.ts', ...args], {
    env: { ...process.env, ...environment },
    stdio: 'pipe',
  })
}

export interface Finished {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

/** Waits for a command's end. */
export async function finished(child: ChildProcess): Promise<Finished> {
  const out: Buffer[] = []
  const err: Buffer[] = []
  child.stdout!.on('data', (chunk: Buffer) => out.push(chunk))
  child.stderr!.on('data', (chunk: Buffer) => err.push(chunk))
  const code = await new Promise<number | null>((resolve) => child.on('close', resolve))
  return { code, stdout: Buffer.concat(out).toString(), stderr: Buffer.concat(err).toString() }
}

export function seqmix(
  args: string[],
  options: { input?: string; environment?: Record<string, string> } = {},
): Promise<Finished> {
  const child = start(args, options.environment)
  child.stdin!.end(options.input ?? '')
  return finished(child)
}
