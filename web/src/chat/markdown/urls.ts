/**
 * Which addresses a model's text may link to. A model's words are untrusted: this is the only gate to `href`.
 */
const ALLOWED = new Set(["http:", "https:", "mailto:"]);

/** The address, normalised, or null when it must not be followed (script, data, file, relative to this page). */
export function safeLink(href: string): string | null {
  try {
    const url = new URL(href);
    return ALLOWED.has(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

/** Raster images inside the text itself; SVG is left out because it is a document, not a picture. */
export function isInlineImage(href: string): boolean {
  return /^data:image\/(png|jpeg|gif|webp|avif);base64,[a-z0-9+/=]+$/i.test(href);
}
