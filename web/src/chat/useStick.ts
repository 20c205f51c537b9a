/**
 * Keeps a scrolling thread at its end while the reader is at its end, and yields the moment they scroll up.
 *
 * Not responsible for what is in the thread. Earlier messages may be put above: the text under the eye stays.
 */
import { type RefObject, useCallback, useEffect, useLayoutEffect, useRef, useState } from "react";

/** Within this many pixels of the end, the reader counts as being there. */
const NEAR = 40;

export interface Stick {
  scroller: RefObject<HTMLDivElement | null>;
  content: RefObject<HTMLDivElement | null>;
  stuck: boolean;
  toEnd: (smooth?: boolean) => void;
}

/** `key`: another thread begins at its end. `first`: the id of the oldest row, which changes when older ones come. */
export function useStick(key: string, first: string | undefined): Stick {
  const scroller = useRef<HTMLDivElement>(null);
  const content = useRef<HTMLDivElement>(null);
  const [stuck, setStuck] = useState(true);
  const at = useRef({ stuck: true, top: 0, height: 0, first });

  const set = useCallback((value: boolean) => {
    at.current.stuck = value;
    setStuck(value);
  }, []);

  const toEnd = useCallback(
    (smooth = false) => {
      const box = scroller.current;
      if (!box) return;
      set(true);
      box.scrollTo({ top: box.scrollHeight, behavior: smooth ? "smooth" : "instant" });
    },
    [set],
  );

  // biome-ignore lint/correctness/useExhaustiveDependencies: another thread (key) begins at its end
  useLayoutEffect(() => toEnd(), [key, toEnd]);

  useLayoutEffect(() => {
    const box = scroller.current;
    const before = at.current;
    if (box && before.first !== first && first !== undefined && before.first !== undefined && !before.stuck) {
      box.scrollTop = box.scrollHeight - (before.height - before.top);
    }
    before.first = first;
  }, [first]);

  useEffect(() => {
    const box = scroller.current;
    const inner = content.current;
    if (!box || !inner) return;
    const note = () => {
      at.current.top = box.scrollTop;
      at.current.height = box.scrollHeight;
    };
    const onScroll = () => {
      const fromEnd = box.scrollHeight - box.clientHeight - box.scrollTop;
      const up = box.scrollTop < at.current.top - 1 && box.scrollHeight >= at.current.height;
      if (fromEnd < NEAR && !up) set(true);
      else if (up && fromEnd > 2) set(false);
      note();
    };
    const onWheel = (event: WheelEvent) => {
      if (event.deltaY < 0 && box.scrollHeight > box.clientHeight) set(false);
    };
    const observer = new ResizeObserver(() => {
      if (at.current.stuck) box.scrollTop = box.scrollHeight;
      note();
    });
    observer.observe(inner);
    observer.observe(box);
    box.addEventListener("scroll", onScroll, { passive: true });
    box.addEventListener("wheel", onWheel, { passive: true });
    return () => {
      observer.disconnect();
      box.removeEventListener("scroll", onScroll);
      box.removeEventListener("wheel", onWheel);
    };
  }, [set]);

  return { scroller, content, stuck, toEnd };
}
