"""The General MIDI programs of FluidR3_GM that the corpus plays, each in a range where it sounds at its written pitch.

Chosen by playing all 128 and tracking their pitch: organs that sound an octave off, drums, effects and pads that ring into the
next note are left out.
"""

from __future__ import annotations

from typing import NamedTuple


class Program(NamedTuple):
    """A General MIDI program and the range it is played in."""

    name: str
    number: int
    """General MIDI program, 0 to 127."""
    low: int
    """Lowest note, in MIDI semitones."""
    high: int
    """Highest note, in MIDI semitones."""
    held_out: bool
    """Kept for test clips."""


PROGRAMS = (
    Program("grand piano", 0, 36, 91, False),
    Program("electric piano 1", 4, 36, 96, False),
    Program("electric piano 2", 5, 36, 96, False),
    Program("harpsichord", 6, 36, 91, False),
    Program("celesta", 8, 48, 96, False),
    Program("vibraphone", 11, 48, 96, True),
    Program("marimba", 12, 40, 96, False),
    Program("xylophone", 13, 60, 91, False),
    Program("dulcimer", 15, 40, 91, False),
    Program("reed organ", 20, 40, 91, False),
    Program("accordion", 21, 40, 91, True),
    Program("harmonica", 22, 40, 96, False),
    Program("bandoneon", 23, 40, 91, False),
    Program("nylon guitar", 24, 40, 91, True),
    Program("jazz guitar", 26, 40, 91, False),
    Program("acoustic bass", 32, 36, 79, False),
    Program("fingered bass", 33, 36, 79, False),
    Program("picked bass", 34, 36, 79, False),
    Program("fretless bass", 35, 36, 79, True),
    Program("slap bass", 36, 36, 79, False),
    Program("synth bass 1", 38, 36, 84, False),
    Program("synth bass 2", 39, 36, 96, False),
    Program("violin", 40, 55, 76, False),
    Program("viola", 41, 48, 84, False),
    Program("cello", 42, 36, 76, True),
    Program("tremolo strings", 44, 40, 91, False),
    Program("pizzicato strings", 45, 36, 96, False),
    Program("strings", 48, 40, 96, False),
    Program("voice oohs", 53, 40, 91, True),
    Program("synth voice", 54, 40, 91, False),
    Program("trumpet", 56, 48, 91, True),
    Program("trombone", 57, 36, 84, False),
    Program("tuba", 58, 36, 72, False),
    Program("horn", 60, 40, 84, False),
    Program("brass section", 61, 40, 91, False),
    Program("synth brass 1", 62, 36, 96, False),
    Program("synth brass 2", 63, 36, 96, False),
    Program("soprano sax", 64, 52, 91, False),
    Program("alto sax", 65, 40, 84, False),
    Program("tenor sax", 66, 40, 91, True),
    Program("oboe", 68, 52, 91, False),
    Program("english horn", 69, 48, 84, False),
    Program("bassoon", 70, 36, 79, False),
    Program("clarinet", 71, 48, 91, True),
    Program("piccolo", 72, 60, 96, False),
    Program("flute", 73, 55, 96, True),
    Program("pan flute", 75, 48, 96, False),
    Program("ocarina", 79, 55, 96, False),
    Program("square lead", 80, 36, 96, False),
    Program("saw lead", 81, 36, 91, True),
    Program("calliope lead", 82, 40, 91, False),
    Program("chiff lead", 83, 36, 96, False),
    Program("charang lead", 84, 36, 91, False),
    Program("voice lead", 85, 36, 96, False),
    Program("bass and lead", 87, 36, 96, False),
    Program("rain pad", 96, 48, 96, False),
    Program("shamisen", 106, 40, 96, False),
    Program("koto", 107, 40, 91, True),
    Program("kalimba", 108, 40, 96, False),
    Program("fiddle", 110, 55, 76, False),
    Program("shanai", 111, 48, 91, False),
    Program("steel drums", 114, 48, 84, False),
)
