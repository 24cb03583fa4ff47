export function built(): { sources: string; how: string } | null
export function sourcesHash(): string
export const root: string
export const addon: string
export const cudaLibrary: string
