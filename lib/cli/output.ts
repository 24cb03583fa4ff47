// Standard output that may go away: `seqmix generate … | head` ends the command quietly.

/** Thrown by {@link write} when nobody reads standard output any more. */
export class ClosedOutput extends Error {}

/** Writes to standard output and waits until it is out of our hands. */
export function write(text: string): Promise<void> {
  return new Promise((resolve, reject) => {
    process.stdout.write(text, (error) => {
      if (!error) resolve()
      else reject((error as NodeJS.ErrnoException).code === 'EPIPE' ? new ClosedOutput() : error)
    })
  })
}

/** Without a listener, a closed pipe would end the process with a stack trace. */
export function watchOutput(): void {
  process.stdout.on('error', () => {}) // write() has it too, and says so to the command
  process.stderr.on('error', () => {}) // nobody reads the statistics: that is no reason to stop
}
